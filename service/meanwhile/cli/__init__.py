"""The command ``meanwhile``."""
