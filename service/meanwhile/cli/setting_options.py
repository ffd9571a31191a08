"""Command-line options for settings, generated from the settings classes so that the two cannot differ."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)


def from_settings(
    *sources: tuple[type[BaseSettings], Collection[str]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command with one option for each of the named settings."""
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_plain(field), _option(settings, name, field)],
        )
        for settings, names in sources
        for name, field in settings.model_fields.items()
        if name in names
    ]

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
        return command

    return add_options


def parse(settings: type[S], options: dict[str, Any]) -> S:
    """The settings with these options. Exits with status 2 and a message for each option that is not valid."""
    given = {
        name: value for name, value in options.items() if value not in (None, []) and name in settings.model_fields
    }
    try:
        return settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            option = str(problem["loc"][0]).replace("_", "-")
            typer.echo(f"--{option}: {problem['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from None


def _plain(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    return kind if type(None) in getattr(kind, "__args__", ()) else kind | None


def _option(settings: type[BaseSettings], name: str, field: FieldInfo) -> Any:
    shown = " ".join(field.default) if isinstance(field.default, list) else field.default
    default = "" if shown in (None, "", PydanticUndefined) else f" Default: {shown}."
    prefix = str(settings.model_config.get("env_prefix"))
    is_path = Path in (field.annotation, *getattr(field.annotation, "__args__", ()))
    return typer.Option(
        envvar=f"{prefix}{name.upper()}",
        help=(field.description or "") + default,
        show_default=False,
        parser=_path if is_path else None,
        metavar="PATH" if is_path else None,
    )


def _path(text: str) -> Path:
    """A path. Refuses an empty one: it usually comes from an unset variable, and would mean the current directory."""
    if not text:
        raise typer.BadParameter("Expected a path, got an empty string.")
    return Path(text)
