"""The command ``meanwhile``, also available as ``python -m meanwhile``.

``main`` imports the command line itself, because every worker process imports the main module of its parent again, and
because ``serve`` prepares for signals first: importing its dependencies takes a second or more.
"""

import errno
import os
import signal
import sys


def main() -> None:
    """The entry point."""
    _open_standard_streams()
    if sys.argv[1:2] == ["serve"]:
        _prepare_for_signals()
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


def _open_standard_streams() -> None:
    """Opens the standard streams that are closed on the null device.

    Otherwise the next file that is opened would get the descriptor of one, and lose it when another process is started.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest free descriptor, which is this one.
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115  # Stays open.
            setattr(sys, name, stream)


def _prepare_for_signals() -> None:
    """Until ``serve`` has its handlers, SIGHUP is blocked, and SIGINT ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Otherwise it is ignored, as after nohup.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


if __name__ == "__main__":
    main()
