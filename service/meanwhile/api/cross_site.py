"""Which requests a browser sends for a web page of another site.

Without API keys, such a page could post to a service on the machine or in the network of its visitor. The browser
marks these requests in ``Sec-Fetch-Site``. It omits that header for plain HTTP beyond localhost; there, ``Origin`` has
to name the requested host.
"""

from meanwhile.api.request_head import Headers


def is_from_another_site(headers: Headers) -> bool:
    """Returns whether a browser says that another site made the request. Other clients send neither header."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
