"""The errors of the readers: what is invalid in a request, and where in its body."""


class Invalid(ValueError):
    """A well-formed request that contains something that cannot be recorded.

    ``detail`` says what was expected and never quotes the input. ``pointer`` is the JSON Pointer (RFC 6901) of the
    invalid part, or None if that part is not in the body.
    """

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    def under(self, pointer: str) -> "Invalid":
        """Returns the same error with ``pointer`` prepended to its own pointer."""
        return type(self)(self.detail, pointer + (self.pointer or ""))


def escape(key: str) -> str:
    """Escapes ``key`` as one token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


class TooMany(Invalid):
    """A request that has more readings, or more numbers in its readings, than the limit."""
