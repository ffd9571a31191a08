"""The content of /openapi.json."""
