"""The command ``meanwhile``, also available as ``python -m meanwhile``.

``main`` imports the command line itself, because every worker process imports the main module of its parent again.
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The interpreter flushes again when it exits.
        sys.stderr.write("Cannot write the output: no space left on device.\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
