"""The query parameters of a request, up to a maximum number."""

from collections.abc import Collection
from urllib.parse import parse_qs

from meanwhile.api.request import Request
from meanwhile.core.errors import Invalid

_MAX_PARAMETERS = 1_100  # An event stream may name 1,000 streams.
_NO_PARAMETERS = "Expected no query parameters: the body of this media type says everything."


def parameters(request: Request, *, keep_blank: bool = True) -> dict[str, list[str]]:
    """Returns the values of each parameter, in order. Keeps empty values only with ``keep_blank``.

    Raises ``Invalid`` if there are too many parameters.
    """
    try:
        return parse_qs(request.query_string, keep_blank_values=keep_blank, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Invalid(f"Expected at most {_MAX_PARAMETERS} parameters in the query.") from None


def single_value(query: dict[str, list[str]], name: str) -> str | None:
    """Returns the value of a query parameter, or None. Raises ``Invalid`` if the parameter occurs more than once."""
    values = query.get(name, [])
    if len(values) > 1:
        raise Invalid(f"Expected the parameter {name} at most once.")
    return values[0] if values else None


def only(request: Request, names: Collection[str]) -> dict[str, str]:
    """Returns the parameters of a request. Raises ``Invalid`` if one is not in ``names`` or occurs more than once."""
    query = parameters(request) if request.query else {}
    if not query.keys() <= set(names):
        raise Invalid(f"Expected no query parameters except {', '.join(names)}." if names else _NO_PARAMETERS)
    return {name: single_value(query, name) or "" for name in query}


def parse_limit(text: str | None, default: int, maximum: int) -> int:
    """Returns the value of a parameter ``limit``. Raises ``Invalid`` if it is not an integer from 1 to ``maximum``."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
        raise Invalid(f"Expected limit to be an integer from 1 to {maximum}.")
    return int(text)
