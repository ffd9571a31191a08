"""The source of the script that does every write, put together from the Lua files in this folder."""

import re
from functools import cache
from importlib import resources

from meanwhile.core.state import FIELDS, VERSION
from meanwhile.storage.commit_reply import RejectReason

# The files whose text is the body of a function, with its parameters. commit.lua calls these functions.
_FUNCTIONS = {
    "idempotency": "now",
    "remembered_timestamps": "now",
    "swap": "merge_head",
    "rows": "",
    "version_1": "trim",
}
_NAMES, _NUMBERS = r"[A-Z_0-9]+(?:, [A-Z_0-9]+)*", r"[-+*^.\dexA-F ]+(?:, [-+*^.\dexA-F ]+)*"
_CONSTANTS = re.compile(rf"^local ({_NAMES}) = ({_NUMBERS}?)(?:  --.*)?\n", re.MULTILINE)


@cache
def script(flags: str = "") -> bytes:
    """Returns the source of the script. ``flags`` are the script flags in its first line.

    Numbers replace the names of the fields of a state, of the reject reasons, and of constants. So a name costs no time
    in a run, and each list exists only once. The constants of ``commit.lua`` hold in the other files, too.
    """
    numbers = {field.upper(): str(number) for number, field in enumerate(FIELDS, start=1)}
    numbers |= {reason.name: str(reason.value) for reason in RejectReason} | {"VERSION": str(VERSION)}
    commit = _with_numbers("commit", numbers)
    functions = [
        f"local function {name}({parameters})\n{_with_numbers(name, numbers.copy())}end\n"
        for name, parameters in _FUNCTIONS.items()
    ]
    return f"#!lua flags={flags}\n{''.join(functions)}{commit}".encode()


def _with_numbers(name: str, numbers: dict[str, str]) -> str:
    """Returns the text of a file with ``numbers`` in place of names.

    Adds the constants of the file to ``numbers``; these have the form ``local NAME = number``.
    """
    source = resources.files("meanwhile").joinpath("storage", f"{name}.lua").read_text()
    for names, values in _CONSTANTS.findall(source):
        numbers |= zip(names.split(", "), [f"({value})" for value in values.split(", ")], strict=True)
    return re.sub(r"\b[A-Z_0-9]+\b", lambda word: numbers.get(word[0], word[0]), _CONSTANTS.sub("", source))
