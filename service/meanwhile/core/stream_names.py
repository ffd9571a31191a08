"""The names of streams, and prefixes of names.

A stream name never contains a glob pattern, a hash tag, a control character or a path that a proxy rewrites (see
``_NAME``).
"""

import re
from functools import lru_cache

from meanwhile.core.errors import Invalid

MAX_NAME_LENGTH = 255
_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9][A-Za-z0-9._:~-]*(?:/[A-Za-z0-9._:~-]+)*", re.ASCII)
FORM = (
    "^[A-Za-z0-9][A-Za-z0-9._:~-]*(/[A-Za-z0-9._:~-]+)*$"  # For JSON Schema, which cannot express all rules of is_name.
)
_PREFIX = re.compile(r"[A-Za-z0-9._:~/-]*", re.ASCII)
RESERVED = frozenset({"readings", "average", "count", "events"})  # Routes below the path of a stream.


def check_name(name: str) -> str:
    """Returns ``name``. Raises ``Invalid`` if it is not a valid stream name."""
    if not is_name(name):
        raise Invalid(
            f"Expected a stream name of 1 to {MAX_NAME_LENGTH} characters: segments of A-Z a-z 0-9 . _ : ~ - joined by "
            "'/'. It starts with a letter or a digit, no segment is '.' or '..', and the last segment is not one of "
            + ", ".join(sorted(RESERVED))
            + "."
        )
    return name


def is_name(name: str) -> bool:
    """Returns whether ``name`` is a valid stream name.

    >>> is_name("plant-1/boiler:2/temp"), is_name("a//b"), is_name("../x"), is_name("x/average")
    (True, False, False, False)
    """
    return len(name) <= MAX_NAME_LENGTH and _is_short_name(name)


@lru_cache(maxsize=16_384)  # Every reading repeats a name: 60 ns instead of 1.5 us.
def _is_short_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.rpartition("/")[2] not in RESERVED


def check_prefix(prefix: str) -> str:
    """Returns ``prefix``. Raises ``Invalid`` if no stream name can start with it."""
    if len(prefix) > MAX_NAME_LENGTH or _PREFIX.fullmatch(prefix) is None:
        raise Invalid("Expected a prefix of a stream name: at most 255 characters of A-Z a-z 0-9 . _ : ~ - and '/'.")
    return prefix
