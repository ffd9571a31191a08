"""Tests of the body formats, one module each."""
