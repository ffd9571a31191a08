"""Tests that kill things: servers die under load here, and what was promised must still hold."""
