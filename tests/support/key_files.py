"""Key files with known keys."""

from pathlib import Path

WRITER, READER, OTHER = "mw_writer", "mw_reader", "mw_other"


def written(directory: Path, *entries: str) -> Path:
    """The key file of a directory, with these entries from now on."""
    file = directory / "keys.toml"
    file.write_text("\n".join(entries))
    return file
