"""Bytes that are made to take a reader long, for a few seconds each: no input takes more than its size explains."""

import pytest

from tests.fuzz.mutation import Target, fuzz
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_no_bytes_take_a_reader_long(target: Target) -> None:
    assert fuzz(target, list(TARGETS[target]), 2.0, 1) > 10
