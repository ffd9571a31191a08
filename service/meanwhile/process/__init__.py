"""Processes: the parent and its workers."""
