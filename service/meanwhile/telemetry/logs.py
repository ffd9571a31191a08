"""The configuration of logging: one line per event on standard error, in the parent and in every worker."""

import logging
from typing import Any


class WithoutQuery(logging.Filter):
    """Removes query strings from the access log, because clients may put an API key into them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Removes the query from the path in a record of uvicorn: client, method, path, version, status."""
        if isinstance(record.args, tuple):
            record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
        return True


def configuration(level: str, *, access_log: bool) -> dict[str, Any]:
    """The argument of ``logging.config.dictConfig``; uvicorn passes it on to its workers."""
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
