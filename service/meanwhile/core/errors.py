"""Errors in the content of a request, with the place in the body where they were found."""


class Invalid(ValueError):
    """A request that can be parsed but contains something that cannot be recorded.

    ``detail`` says what was expected, and never repeats the input. ``pointer`` is the JSON Pointer (RFC 6901) to the
    place in the body, or None if the error is not in the body.
    """

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    def under(self, pointer: str) -> "Invalid":
        """The same error with ``pointer`` put before its own pointer."""
        return type(self)(self.detail, pointer + (self.pointer or ""))


def escape(key: str) -> str:
    """Escapes ``key`` as one token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


class TooMany(Invalid):
    """A request has more readings, or more numbers in them, than the limit."""
