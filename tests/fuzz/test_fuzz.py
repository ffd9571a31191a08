"""Every target of the fuzzer, for a moment; ``MEANWHILE_FUZZ_SECONDS`` makes it longer, and then the seed is new."""

import os
import secrets

import pytest

from tests.fuzz.mutation import Target, fuzz
from tests.fuzz.targets import TARGETS

SECONDS = os.environ.get("MEANWHILE_FUZZ_SECONDS")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_no_bytes_break_a_reader_or_take_it_long(target: Target) -> None:
    seed = 1 if SECONDS is None else secrets.randbits(32)
    assert fuzz(target, list(TARGETS[target]), float(SECONDS or 2), seed) > 10
