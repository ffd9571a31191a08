"""The command line: ``meanwhile serve``, ``mqtt``, ``send``, ``average``, ``watch``, ``demo`` and ``key``.

Each command imports what it alone needs when it runs: the service takes a second, and none should wait for another's.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from meanwhile.api.key_file import SCOPES, BadKeyFile, key_entry, new_secret
from meanwhile.cli.setting_options import from_settings, parse
from meanwhile.core.errors import Invalid
from meanwhile.core.stream_names import check_prefix
from meanwhile.settings import MqttSettings, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from meanwhile.cli.csv_reader import Column
    from meanwhile.cli.http_client import Client, Outcome

app = typer.Typer(no_args_is_help=True, add_completion=False)

Secret = Annotated[str | None, typer.Option(envvar="MEANWHILE_KEY", help="API key, where the service wants one.")]
Url = Annotated[str, typer.Option(envvar="MEANWHILE_URL", help="Where the service is.")]
_WHERE_STREAMS_ARE = (
    *("redis_url", "data_dir", "prefix", "patience", "durability", "replicas", "max_streams", "max_components"),
    *("max_names", "grace", "log_level"),
)
_BATCH = 10_000  # Readings in a request, always: a part of a file has the same idempotency key whenever it is sent.
_UNLIMITED = 10_000  # Columns.
_DEFAULT_URL = "http://127.0.0.1:8000"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meanwhile {version('meanwhile-server')}")
        raise typer.Exit


@app.callback()
def general(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Exact running averages of sensor streams."""


def _fail(message: str, code: int = 1) -> NoReturn:
    """Ends the program."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _console() -> "Console":
    """Standard output, as wide as its lines where it is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


def _connected(url: str, key: str | None) -> "Client":
    from meanwhile.cli.http_client import Client

    return Client(url, key, waiting=lambda reason: typer.echo(f"{reason} Waiting for it.", err=True))


@app.command()
@from_settings((Settings, Settings.model_fields))
def serve(**options: Any) -> None:
    """Start the service; without a Redis URL also an embedded Valkey of its own."""
    settings = parse(Settings, options)
    from meanwhile.process.server import CannotListen
    from meanwhile.process.server import serve as run_service
    from meanwhile.process.shared_directory import NoSharedDirectory
    from meanwhile.storage.data_directory import EmbeddedError
    from meanwhile.storage.redis_client import BadRedisUrl

    try:
        run_service(settings, _announce)
    except (CannotListen, EmbeddedError, BadKeyFile, BadRedisUrl, NoSharedDirectory) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _announce(url: str, where: str, keys: int | None) -> None:
    typer.echo(f"Meanwhile listens on {url} and keeps its streams in {where}.")
    if keys is not None:
        configured = "1 API key is" if keys == 1 else f"{keys} API keys are"
        typer.echo(f"Every request needs an API key ({configured} configured): -H 'Authorization: Bearer <key>'.")
    else:
        typer.echo("No API keys are set: anyone who can reach this address can read, write and delete.")
    typer.echo(
        "Send it a reading:\n\n"
        f"    curl {url}/v1/streams/kitchen/temperature/readings \\\n"
        "      -H 'Content-Type: application/json' -d '{\"value\": 21.4}'\n"
    )


@app.command()
@from_settings((MqttSettings, MqttSettings.model_fields), (Settings, _WHERE_STREAMS_ARE))
def mqtt(**options: Any) -> None:
    """Record what sensors publish at an MQTT broker, each message once; publish averages there, too.

    Without a Redis URL it records into the embedded Valkey of a `meanwhile serve` on this machine.
    """
    settings, mqtt_settings = parse(Settings, options), parse(MqttSettings, options)
    from meanwhile.mqtt.broker import BrokerError
    from meanwhile.mqtt.journal import JournalError
    from meanwhile.mqtt.run import run as run_mqtt
    from meanwhile.storage.data_directory import EmbeddedError

    try:
        run_mqtt(settings, mqtt_settings)
    except (BrokerError, EmbeddedError, JournalError, ValueError, OSError) as error:
        _fail(str(error))


@app.command()
def send(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A CSV file with a header row.")],
    prefix: Annotated[str, typer.Option(help="Start of the stream names.")] = "",
    missing: Annotated[
        list[str] | None, typer.Option(help="A cell that stands for no reading, besides the empty one. Repeatable.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="What separates the cells.")] = ",",
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Send every numeric column of a CSV file as the stream <prefix><column>.

    A column is numeric if its first cell that is not missing is a number. What a stream name cannot hold becomes "_".
    The same file sent again with the same options changes nothing, so an interrupted send is simply repeated.
    """
    from rich.console import Console
    from rich.progress import Progress

    from meanwhile.cli.csv_reader import CsvReader, Unusable, fingerprint
    from meanwhile.cli.http_client import Outcome, Unsent

    if not file.is_file():
        _fail(f"{file} is no regular file: it is read twice, to know it again and to send it.", 2)
    if len(delimiter) != 1:
        _fail("--delimiter: Expected one character.", 2)
    outcome = Outcome()
    terminal = Console(stderr=True)
    producer = f"send-{fingerprint(file, prefix, sorted(missing or []), delimiter)}"
    try:
        with (
            CsvReader(file, prefix=prefix, missing=missing or [], delimiter=delimiter) as sheet,
            _connected(url, key) as client,
            Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress,
        ):
            task = progress.add_task(file.name, total=sheet.size)
            for number, readings in enumerate(sheet.batches(_BATCH)):
                client.record(readings, producer, number * _BATCH, outcome)
                progress.update(task, completed=sheet.position)
            columns = sheet.columns
    except (Unsent, Unusable) as error:
        before = f"\n{sum(outcome.recorded.values())} readings were recorded before that." if outcome.recorded else ""
        _fail(f"{error}{before}")
    except KeyboardInterrupt:
        _fail(f"Stopped; {sum(outcome.recorded.values())} readings were recorded. Send it again for the rest.", 130)
    _summarize(columns, outcome)
    if sheet.longer_rows:
        typer.echo(f"refused the cells beyond the header in {sheet.longer_rows} rows")
    if all(column.is_numeric is False for column in columns):
        _fail("No column is numeric.")
    if outcome.refused or sheet.longer_rows or any(column.malformed for column in columns):
        raise typer.Exit(1)


def _summarize(columns: list["Column"], outcome: "Outcome") -> None:
    from rich.table import Table

    from meanwhile.cli.csv_reader import NUMBERS

    table = Table("column", "stream", "recorded", "missing", "refused", box=None)
    for column in columns:
        if column.is_numeric:
            refused = outcome.refused.get(column.stream, 0) + column.malformed
            recorded = outcome.recorded.get(column.stream, 0)
            table.add_row(column.header, column.stream, *map(str, (recorded, column.missing, refused)))
    if table.row_count:
        _console().print(table)
    for column in columns:
        if not column.is_numeric:
            why = "no readings" if column.is_numeric is None else "not numeric"
            typer.echo(
                f"skipped {column.header}: {why}" if column.header.strip() else "skipped a column without a header"
            )
        if column.malformed:
            first = f"first in line {column.first_malformed_line}"
            typer.echo(f"refused {column.malformed} cells of {column.header}: expected {NUMBERS}, {first}")
        if reason := outcome.reasons.get(column.stream):
            typer.echo(f"refused for {column.stream}: {reason}")
    before = f", {outcome.duplicates} of them in an earlier run" if outcome.duplicates else ""
    typer.echo(f"{sum(outcome.recorded.values())} readings recorded{before}")


@app.command("key")
def make_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write or admin; repeatable. Default: write.")] = None,
    prefix: Annotated[str, typer.Option(help="Only streams whose names start with this.")] = "",
) -> None:
    """Make an API key: its entry for the file of keys goes to standard output, the key itself is shown once."""
    scopes = scope or ["write"]
    if unknown := set(scopes) - set(SCOPES):
        _fail(f"Unknown scope {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}.", 2)
    try:
        check_prefix(prefix)
    except Invalid as error:
        _fail(f"--prefix: {error.detail}", 2)
    if not (name.strip() and name.isprintable()):
        _fail("Expected a name of printable characters for the key.", 2)
    secret = new_secret()
    typer.echo(key_entry(name, scopes, prefix, secret))
    typer.echo(f"The key, shown this once:\n\n    {secret}\n", err=True)


@app.command()
def average(
    stream: Annotated[str, typer.Argument(help="The stream's name.")],
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Print the average of a stream."""
    from meanwhile.cli.http_client import Unsent

    try:
        with _connected(url, key) as client:
            typer.echo(client.average(stream))
    except Unsent as error:
        _fail(str(error))


@app.command("watch")
def watch_streams(
    prefix: Annotated[str | None, typer.Argument(help="Only streams whose names start with this.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once, and do not wait for changes.")] = False,
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Show the streams and their averages as they change, until Ctrl-C."""
    from meanwhile.cli import terminal_table
    from meanwhile.cli.http_client import Unsent

    try:
        with _connected(url, key) as client:
            (terminal_table.once if once else terminal_table.forever)(client, prefix, _console())
    except Unsent as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command("demo")
def play_demo(
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so many. By default at Ctrl-C.")] = None,
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Send readings as a handful of sensors would, to streams named demo/..."""
    from meanwhile.cli import demo_sensors
    from meanwhile.cli.http_client import Unsent

    sent = 0

    def tell(batch: Mapping[str, list[Any]]) -> None:
        nonlocal sent
        if sent == 0:
            typer.echo(f"Sending to demo/... at {url} until Ctrl-C; watch it there, or with: meanwhile watch demo/")
        sent += sum(map(len, batch.values()))

    try:
        with _connected(url, key) as client:
            demo_sensors.play(client, seconds, tell)
    except Unsent as error:
        _fail(str(error))
    except KeyboardInterrupt:
        pass
    typer.echo(f"{sent} readings sent")
