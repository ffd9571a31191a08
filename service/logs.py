"""Logs: one line an event on standard error, in the parent and in every worker alike."""

from typing import Any


def configuration(level: str, *, access_log: bool) -> dict[str, Any]:
    """What ``logging.config.dictConfig`` takes, and uvicorn hands to its workers."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "service": {"level": level.upper()},
            "uvicorn": {"level": level.upper()},
            "uvicorn.access": {"level": "INFO" if access_log else "WARNING"},
        },
    }
