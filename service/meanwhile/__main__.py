"""``meanwhile``, also as ``python -m service``.

The command line is imported only to run it: every worker process imports the main module of its parent again.
"""


def main() -> None:
    """The entry point."""
    from meanwhile.cli.commands import app

    app()


if __name__ == "__main__":
    main()
