"""The command line: ``meanwhile serve``, ``mqtt``, ``send``, ``average``, ``watch``, ``demo`` and ``key``.

Each command imports its dependencies when it runs: importing the service takes a second, and most commands do without.
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
    from meanwhile.cli.http_client import Client
    from meanwhile.cli.sender import Outcome

app = typer.Typer(no_args_is_help=True, add_completion=False)

Secret = Annotated[str | None, typer.Option(envvar="MEANWHILE_KEY", help="API key, if the service requires one.")]
Url = Annotated[str, typer.Option(envvar="MEANWHILE_URL", help="URL of the service.")]
_WHERE_STREAMS_ARE = (
    *("redis_url", "data_dir", "prefix", "redis_timeout", "durability", "replicas", "max_streams", "max_components"),
    *("max_names", "shutdown_timeout", "log_level"),
)
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
    """Prints the message to standard error and exits."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _console() -> "Console":
    """A console on standard output, with unlimited width if that is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED)


def _connected(url: str, key: str | None) -> "Client":
    from meanwhile.cli.http_client import Client

    return Client(url, key, waiting=lambda reason: typer.echo(f"{reason.rstrip('.')}. Retrying.", err=True))


@app.command()
@from_settings((Settings, Settings.model_fields))
def serve(**options: Any) -> None:
    """Start the service. Without a Redis URL, it also starts an embedded Valkey."""
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
    typer.echo(f"Meanwhile listens on {url} and stores its streams in {where}.")
    if keys is not None:
        configured = "1 API key is" if keys == 1 else f"{keys} API keys are"
        typer.echo(f"Every request needs an API key ({configured} configured): -H 'Authorization: Bearer <key>'.")
    else:
        typer.echo("No API keys are set: anyone who can reach this address can read, write and delete.")
    typer.echo(
        "Send a reading:\n\n"
        f"    curl {url}/v1/streams/kitchen/temperature/readings \\\n"
        "      -H 'Content-Type: application/json' -d '{\"value\": 21.4}'\n"
    )


@app.command()
@from_settings((MqttSettings, MqttSettings.model_fields), (Settings, _WHERE_STREAMS_ARE))
def mqtt(**options: Any) -> None:
    """Record readings from an MQTT broker, each message once, and optionally publish the averages there.

    Without a Redis URL, it records into the embedded Valkey of a `meanwhile serve` on this machine.
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
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV file with a header row.")],
    prefix: Annotated[str, typer.Option(help="Prefix of the stream names.")] = "",
    missing: Annotated[
        list[str] | None, typer.Option(help="Text of a cell that means no reading, as an empty cell does. Repeatable.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Character that separates the cells.")] = ",",
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Send every numeric column of a CSV file to the stream <prefix><column>.

    A column is numeric if its first cell that is not missing is a number.
    Characters that a stream name cannot contain become "_".
    If it was interrupted, run the command again with the same options and API key: no reading is counted twice.
    A file is known by its content: if that has changed, even by one row, all of its readings are counted again.
    """
    from rich.console import Console
    from rich.progress import Progress

    from meanwhile.cli.csv_reader import CsvReader, Unusable, fingerprint
    from meanwhile.cli.http_client import Unsent
    from meanwhile.cli.sender import Outcome, Sender

    if not file.is_file():
        _fail(f"{file} is not a regular file. It must be one, because it is read twice.", 2)
    if len(delimiter) != 1:
        _fail("--delimiter: Expected a single character.", 2)
    outcome = Outcome()
    terminal = Console(stderr=True)
    producer = f"send-{fingerprint(file, prefix, missing or [], delimiter)}"
    try:
        with (
            CsvReader(file, prefix=prefix, missing=missing or [], delimiter=delimiter) as reader,
            _connected(url, key) as client,
            Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress,
        ):
            task = progress.add_task(file.name, total=reader.size)
            for position in Sender(client, producer, outcome).send_file(reader):
                progress.update(task, completed=position)
            columns = reader.columns
    except (Unsent, Unusable) as error:
        before = f"\nRecorded before that: {_number(outcome.total, 'reading')}." if outcome.recorded else ""
        _fail(f"{error}{before}")
    except KeyboardInterrupt:
        _fail(f"Stopped. Recorded: {_number(outcome.total, 'reading')}. Run the command again to send the rest.", 130)
    _summarize(columns, outcome)
    if reader.longer_rows:
        typer.echo(f"refused the cells beyond the last header in {_number(reader.longer_rows, 'row')}")
    if all(column.is_numeric is False for column in columns):
        _fail("No column is numeric.")
    if outcome.refused or reader.longer_rows or any(column.malformed for column in columns):
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
                f"skipped {column.header}: {why}" if column.header.strip() else "skipped a column without header"
            )
        if column.malformed:
            cells = f"{_number(column.malformed, 'cell')} of {column.header}"
            typer.echo(f"refused {cells}, first in line {column.first_malformed_line}: expected {NUMBERS}")
        if reason := outcome.reasons.get(column.stream):
            typer.echo(f"refused for {column.stream}: {reason}")
    before = f", {outcome.duplicates} of them in an earlier run" if outcome.duplicates else ""
    typer.echo(f"{_number(outcome.total, 'reading')} recorded{before}")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@app.command("key")
def make_key(
    name: Annotated[str, typer.Argument(help="Name of the key, such as the device that uses it.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What the key allows: read, write or admin. Repeatable. Default: write.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Allow only streams whose names start with this text.")] = "",
) -> None:
    """Create an API key: print its entry for the file of API keys, and show the key itself once."""
    scopes = scope or ["write"]
    if unknown := set(scopes) - set(SCOPES):
        _fail(f"Unknown scope {', '.join(sorted(unknown))}. The scopes are {', '.join(SCOPES)}.", 2)
    try:
        check_prefix(prefix)
    except Invalid as error:
        _fail(f"--prefix: {error.detail}", 2)
    if not (name.strip() and name.isprintable()):
        _fail("Expected a name for the key, made of printable characters.", 2)
    secret = new_secret()
    typer.echo(key_entry(name, scopes, prefix, secret))
    typer.echo(f"The key, which is not shown again:\n\n    {secret}\n", err=True)


@app.command()
def average(
    stream: Annotated[str, typer.Argument(help="Name of the stream.")],
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
    prefix: Annotated[str | None, typer.Argument(help="Show only streams whose names start with this text.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Show the streams and their averages in a live table, until Ctrl-C."""
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
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after this many seconds. Default: run until Ctrl-C.")
    ] = None,
    url: Url = _DEFAULT_URL,
    key: Secret = None,
) -> None:
    """Send readings from simulated sensors to streams named demo/..."""
    from meanwhile.cli import demo_sensors
    from meanwhile.cli.http_client import Unsent

    sent = 0

    def report(batch: Mapping[str, list[Any]]) -> None:
        nonlocal sent
        if sent == 0:
            typer.echo(f"Sending readings to demo/... until Ctrl-C. To watch, open {url} or run: meanwhile watch demo/")
        sent += sum(map(len, batch.values()))

    try:
        with _connected(url, key) as client:
            demo_sensors.play(client, seconds, report)
    except Unsent as error:
        _fail(str(error))
    except KeyboardInterrupt:
        pass
    typer.echo(f"{_number(sent, 'reading')} sent")
