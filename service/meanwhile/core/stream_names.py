"""Names of streams, and prefixes of them.

A stream's name can never be a glob, a hash tag, a control character or a path that a proxy rewrites (see ``_NAME``).
"""

import re
from functools import lru_cache

from meanwhile.core.errors import Invalid

LONGEST_NAME = 255
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9][A-Za-z0-9._:~-]*(?:/[A-Za-z0-9._:~-]+)*", re.ASCII)
FORM = "^[A-Za-z0-9][A-Za-z0-9._:~-]*(/[A-Za-z0-9._:~-]+)*$"  # For JSON Schema: a name has this form, and is_name.
_PREFIX = re.compile(r"[A-Za-z0-9._:~/-]*", re.ASCII)
RESERVED = frozenset({"readings", "average", "count", "events"})  # Routes below a stream's own path.


def check_name(name: str) -> str:
    """``name`` itself if it can be a stream's; raises ``Invalid`` otherwise."""
    if not is_name(name):
        raise Invalid(
            f"A stream name has 1 to {LONGEST_NAME} characters: segments of A-Z a-z 0-9 . _ : ~ - joined by '/', the "
            "first character a letter or a digit, no segment '.' or '..', the last none of "
            + ", ".join(sorted(RESERVED))
            + "."
        )
    return name


def is_name(name: str) -> bool:
    """Whether ``name`` can be a stream's.

    >>> is_name("plant-1/boiler:2/temp"), is_name("a//b"), is_name("../x"), is_name("x/average")
    (True, False, False, False)
    """
    return len(name) <= LONGEST_NAME and _is_short_name(name)


@lru_cache(maxsize=16_384)  # A name comes again with every reading: 60 ns instead of 1.5 us.
def _is_short_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.rpartition("/")[2] not in RESERVED


def check_prefix(prefix: str) -> str:
    """``prefix`` itself if a stream's name can start with it; raises ``Invalid`` otherwise."""
    if len(prefix) > LONGEST_NAME or _PREFIX.fullmatch(prefix) is None:
        raise Invalid("A prefix is the start of a stream name: at most 255 of A-Z a-z 0-9 . _ : ~ - and '/'.")
    return prefix
