"""gzip data, in whatever pieces and members: the content comes out, anything else is refused, work is bounded."""

import asyncio
import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanwhile.api.gzip_inflation import PIECE, Inflater, inflate
from meanwhile.api.refusals import BadEncoding, BodyTooLarge

law = settings(derandomize=True, deadline=None, max_examples=150)
EMPTY = gzip.compress(b"")


@law
@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=5), st.integers(1, 70_000))
def test_what_went_in_comes_out_in_pieces_that_are_not_large(members: list[bytes], size: int) -> None:
    data = b"".join(map(gzip.compress, members))
    inflater = Inflater()
    pieces = [piece for at in range(0, len(data), size) for piece in inflater.pieces(data[at : at + size])]
    inflater.finish()
    assert b"".join(members) == b"".join(pieces)
    assert PIECE >= max(map(len, pieces))


def test_a_piece_of_what_inflates_a_thousandfold_is_not_large_either() -> None:
    data = gzip.compress(b"\n" * 20_000_000)
    pieces = list(Inflater().pieces(data))
    assert (20_000_000, PIECE) == (sum(map(len, pieces)), max(map(len, pieces)))


async def test_a_hundred_thousand_members_of_one_byte_are_inflated_with_turns_for_others() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    data = gzip.compress(b"x") * 100_000
    assert b"x" * 100_000 == await inflate(data, 100_000)
    task.cancel()
    assert turns >= len(data) // PIECE


async def test_no_zlib_object_gets_more_than_a_window_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib copies what follows a member: with all of the body, that was quadratic."""
    copied = 0
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._real = real(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal copied
            content = self._real.decompress(data, most)
            copied += len(self._real.unused_data) + len(self._real.unconsumed_tail)
            return content

        @property
        def eof(self) -> bool:
            return self._real.eof

        @property
        def unused_data(self) -> bytes:
            return self._real.unused_data

        @property
        def unconsumed_tail(self) -> bytes:
            return self._real.unconsumed_tail

    monkeypatch.setattr("meanwhile.api.gzip_inflation.zlib.decompressobj", Counting)
    data = gzip.compress(b"x") * 10_000
    await inflate(data, 100_000)
    assert copied <= 10_000 * 4096


async def test_members_without_content_come_to_an_end() -> None:
    assert b"ab" == await inflate(gzip.compress(b"a") + EMPTY * 1_000 + gzip.compress(b"b") + EMPTY * 1_000, 100)
    for data in (EMPTY * 105_000, gzip.compress(b"a") + EMPTY * 1_002):
        with pytest.raises(BadEncoding, match="1000 empty members"):
            await inflate(data, 100)


async def test_more_than_the_limit_is_refused_and_what_is_cut_off_too() -> None:
    data = gzip.compress(b"x" * 1_000_000)
    assert 1_000_000 == len(await inflate(data, 1_000_000))
    with pytest.raises(BodyTooLarge, match="999999 bytes"):
        await inflate(data, 999_999)
    for broken in (b"", data[:-1], data[:-8], data + b"x", b"x" + data, data + data[:5]):
        with pytest.raises(BadEncoding):
            await inflate(broken, 10_000_000)
