"""The source of the script that does every write, put together from the Lua files in this folder."""

import re
from functools import cache
from importlib import resources

from meanwhile.core.state import MEMBERS
from meanwhile.storage.commit_reply import RejectReason


@cache
def script(flags: str = "") -> bytes:
    """Returns the source of the script. ``flags`` are the script flags in its first line.

    The numbers of Python replace the names of the members of a state and of the reject reasons. So a name costs no time
    in a run, and each list exists only once.
    """
    idempotency, timestamps, swap, commit = [
        resources.files("meanwhile").joinpath("storage", f"{name}.lua").read_text()
        for name in ("idempotency", "remembered_timestamps", "swap", "commit")
    ]
    numbers = {name.upper(): number for number, name in enumerate(MEMBERS, start=1)}
    numbers |= {reason.name: reason.value for reason in RejectReason}
    deduplication = (
        f"local function deduplication(now, timestamps)\nif timestamps then\n{timestamps}end\n{idempotency}end\n"
    )
    source = f"#!lua flags={flags}\n{deduplication}local function swap(merge_head)\n{swap}end\n{commit}"
    return re.sub(r"\b[A-Z_]+\b", lambda word: str(numbers.get(word[0], word[0])), source).encode()
