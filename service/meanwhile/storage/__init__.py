"""The only floor that knows Redis."""
