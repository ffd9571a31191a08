"""Where the repository is."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
VERSION_1 = DATA / "version-1"  # Stored states, see README.md there.
