"""The routes, in groups."""
