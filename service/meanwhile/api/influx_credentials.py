"""The credentials of InfluxDB 1 clients: an API key as the password ``p`` in the query, which only /write accepts."""

import base64

from meanwhile.api.query_parameters import parameters
from meanwhile.api.request import Request
from meanwhile.api.request_head import Headers


def credentials(request: Request) -> Headers:
    """Returns the headers, with the password that an InfluxDB 1 client sends in the query as Basic credentials."""
    query = parameters(request, keep_blank=False)
    # Several passwords are refused later.
    basic = [base64.b64encode(f":{password}".encode()) for password in query.get("p", [])]
    return request.headers.with_more([(b"authorization", b"Basic " + one) for one in basic])
