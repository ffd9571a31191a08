"""The query parameters of a request, up to a maximum number."""

from urllib.parse import parse_qs

from meanwhile.api.request import Request
from meanwhile.core.errors import Invalid

_MAX_PARAMETERS = 1_100  # An event stream may name 1,000 streams.


def parameters(request: Request, *, keep_blank: bool = True) -> dict[str, list[str]]:
    """Returns the values of each parameter, in order. Keeps empty values only with ``keep_blank``.

    Raises ``Invalid`` if there are too many parameters.
    """
    try:
        return parse_qs(request.query_string, keep_blank_values=keep_blank, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Invalid(f"Expected at most {_MAX_PARAMETERS} parameters in the query.") from None
