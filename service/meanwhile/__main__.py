"""``meanwhile``, also as ``python -m meanwhile``.

The command line is imported only to run it: every worker process imports the main module of its parent again.
"""

import errno
import os
import sys


def main() -> None:
    """The entry point."""
    from meanwhile.cli.commands import app

    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The interpreter flushes once more.
        sys.stderr.write("The output cannot be written: no space is left.\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
