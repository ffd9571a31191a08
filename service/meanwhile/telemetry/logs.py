"""Logs: one line an event on standard error, in the parent and in every worker alike. No secret is ever in one."""

import logging
from typing import Any


class WithoutQuery(logging.Filter):
    """Leaves queries out of the access log: somebody will put an API key there, though none is accepted there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shortens the path in what uvicorn logs: client, method, path, version, status."""
        if isinstance(record.args, tuple):
            record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
        return True


def configuration(level: str, *, access_log: bool) -> dict[str, Any]:
    """What ``logging.config.dictConfig`` takes, and uvicorn hands to its workers."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"},
        },
        "filters": {"without_query": {"()": WithoutQuery}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "meanwhile": {"level": level.upper()},
            "uvicorn": {"level": level.upper()},
            "uvicorn.access": {"level": "INFO" if access_log else "WARNING", "filters": ["without_query"]},
        },
    }
