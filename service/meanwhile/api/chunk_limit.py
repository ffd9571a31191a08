"""How small the chunks of a body may be: each costs time, however little it contains.

Up to 10,000 chunks may have any size; beyond that, they must have 16 bytes on average.
"""

from meanwhile.api.refusals import NotHttp

_MAX_ANY_SIZE = 10_000  # Chunks.
_MIN_MEAN = 16  # Bytes.
_OVERHEAD = 5  # Bytes: the size of the chunk and two line ends.


def check(chunks: int, size: int) -> None:
    """Raises ``NotHttp`` if this many chunks are too small for a request of ``size`` bytes with its overhead."""
    if chunks > _MAX_ANY_SIZE and chunks * (_MIN_MEAN + _OVERHEAD) > size:
        raise NotHttp(f"Expected chunks of at least {_MIN_MEAN} bytes on average.")
