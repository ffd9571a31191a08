"""``python -m service`` is ``meanwhile``."""

from service.cli import main

if __name__ == "__main__":
    main()
