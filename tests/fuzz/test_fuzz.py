"""Every target of the fuzzer with some inputs; with ``MEANWHILE_FUZZ_SECONDS`` for that long, from a new seed."""

import os
import secrets

import pytest

from tests.fuzz.mutation import Target, fuzz, fuzz_some
from tests.fuzz.targets import TARGETS

SECONDS = os.environ.get("MEANWHILE_FUZZ_SECONDS")
INPUTS = 300


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_no_bytes_break_a_reader(target: Target) -> None:
    seeds = list(TARGETS[target])
    assert seeds
    if SECONDS is None:
        fuzz_some(target, seeds, INPUTS, 1)
    else:
        assert fuzz(target, seeds, float(SECONDS), secrets.randbits(32)) > 10
