"""What a reader refuses, and where in a body it stands."""


class Invalid(ValueError):
    """A request that is understood but says something that cannot be recorded.

    ``detail`` says what was expected, never what came; ``pointer`` is the JSON Pointer (RFC 6901) of the place, or
    None where the place is not in the body.
    """

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    def under(self, pointer: str) -> "Invalid":
        """The same, seen from above: ``pointer`` leads to where its own pointer starts."""
        return type(self)(self.detail, pointer + (self.pointer or ""))


def escape(key: str) -> str:
    """``key`` as one token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


class TooMany(Invalid):
    """A request with more readings, or numbers in them, than the limit."""
