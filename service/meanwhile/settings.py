"""The settings: each is an environment variable ``MEANWHILE_<NAME>`` and an option of ``meanwhile serve``.

``MqttSettings`` holds those of ``meanwhile mqtt``, whose variables are named ``MEANWHILE_MQTT_<NAME>``.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from meanwhile.formats import line_protocol_names

_FILTER = re.compile(r"(([^/+#]*|\+)/)*([^/+#]*|\+|#)")  # MQTT 5.0, section 4.7.1.
_SHARED = re.compile(r"\$share/[^/+#]+/.+")  # MQTT 5.0, section 4.8.2.
_PUBLISHED = re.compile(r"(?!\$)[^#+]*[^#+/]")  # A topic to publish below (MQTT 5.0, sections 4.7.1 and 4.7.2).
_MAX_MQTT_TEXT = 65_535  # Bytes of a string of MQTT (MQTT 5.0, section 1.5.4).
_MAX_PUBLISHED = 65_000  # Bytes; leaves room for a stream name or a discovery topic.
_STOP_MARGIN = 2.0  # Seconds.
WORKERS_SHARE = "MEANWHILE_WORKERS_SHARE"  # Set by the parent process: the directory of the workers' counters.


def default_data_dir() -> Path:
    """The data directory of the XDG Base Directory specification; ``~`` is expanded only when it is used."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "meanwhile"


class Settings(BaseSettings):
    """The settings of one service. The command line or ``create_app`` builds them, never an import."""

    model_config = SettingsConfigDict(env_prefix="MEANWHILE_", env_ignore_empty=True, extra="ignore")

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 means all of the host's IPv4 addresses."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0 picks a free one.")
    workers: int = Field(1, ge=1, le=64, description="Number of worker processes.")
    redis_url: str | None = Field(
        None,
        pattern=r"^(redis|rediss|unix)://\S+$",
        description="URL of the Redis or Valkey that stores the streams: redis://, rediss:// (TLS) or unix://. "
        "Without it, an embedded Valkey is used.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Data directory of the embedded Valkey. Default: ~/.local/share/meanwhile.",
    )
    prefix: str = Field(
        "meanwhile",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Prefix of every key in Redis: <prefix>:stream:<name>.",
    )
    redis_timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Timeout for Redis, in seconds. A request that waits longer gets an error reply.",
    )
    durability: Literal["fsync", "everysec", "replicated"] = Field(
        "fsync",
        description="What a 200 reply guarantees. fsync: on disk. everysec: written, and fsynced once a second. "
        "replicated: on disk, and received by the replicas.",
    )
    replicas: int = Field(
        1, ge=1, le=16, description="Number of replicas that must receive a commit if durability is replicated."
    )
    strict: bool = Field(
        False,
        description="Report not ready (503 from /readyz) while the configuration of Redis does not guarantee what a "
        "200 reply promises, or cannot be verified.",
    )
    require_idempotency_key: bool = Field(
        False, description="Refuse readings that are sent without an Idempotency-Key."
    )
    api_keys: Path | None = Field(
        None,
        description="File of API keys, reloaded on SIGHUP. Without it, anyone who can reach the service can use it.",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        [],
        description="Host names to accept when no API keys are configured, separated by spaces, in addition to IP "
        "addresses, names without a dot, and names in .local, .internal, .home.arpa and .lan. *.example.org accepts "
        "all subdomains, * accepts every name.",
    )
    max_streams: int = Field(
        0,
        ge=0,
        description="Maximum number of keys in the Redis database. At the limit, no new streams are created. "
        "0 means no limit.",
    )
    max_waiting: int = Field(200_000, ge=1, description="Maximum number of readings waiting for a commit, per worker.")
    max_subscribers: int = Field(2_000, ge=0, description="Maximum number of open event streams, per worker.")
    max_connections: int = Field(4_096, ge=1, description="Maximum number of open connections, per worker.")
    max_receiving: int = Field(
        64 * 1024 * 1024,
        ge=1,
        description="Maximum size of all partly received request bodies together, in bytes per worker. Bodies of up to "
        "64 KiB do not count, and a single larger body is always accepted.",
    )
    max_body: int = Field(
        8 * 1024 * 1024,
        ge=1,
        description="Maximum size of a request body, or of a line of NDJSON, in bytes after decompression.",
    )
    max_readings: int = Field(
        100_000, ge=1, description="Maximum number of readings in a request. NDJSON has no limit."
    )
    max_numbers: int = Field(
        1_500_000, ge=1, description="Maximum number of numbers in a request. NDJSON has no limit."
    )
    max_components: int = Field(1_024, ge=1, description="Maximum number of components (numbers) in a value.")
    max_names: int = Field(64, ge=1, description="Maximum number of names in an object.")
    max_uploads: int = Field(100, ge=0, description="Maximum number of open NDJSON uploads, per worker.")
    upload_idle_timeout: float = Field(
        300.0,
        gt=0,
        description="Idle timeout of an open upload, in seconds. The service ends an upload that sends no complete "
        "reading for that long.",
    )
    line_protocol_stream: str = Field(
        line_protocol_names.DEFAULT,
        description="Pattern of the stream name for a line protocol field, made of text, {measurement}, {tags}, "
        "{pairs} and {field}.",
    )
    line_protocol_dedupe: bool = Field(
        False, description="Count each line protocol point once, by its timestamp, as ?dedupe=timestamp does."
    )
    shutdown_timeout: int = Field(
        10, ge=0, le=3_600, description="Time that running requests have to finish at shutdown, in seconds."
    )
    access_log: bool = Field(False, description="Log every request.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log.")

    @property
    def stop_timeout(self) -> float:
        """Seconds after a signal by which every process has ended or is killed; covers the last commits."""
        return self.shutdown_timeout + self.redis_timeout + _STOP_MARGIN

    @field_validator("redis_url")
    @classmethod
    def _check_port_and_database(cls, url: str | None) -> str | None:
        parts = _parts(url or "")
        if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdecimal():
            raise ValueError("Expected a database number after the host. Write a / in the password as %2F.")
        return url

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_at_spaces(cls, names: object) -> object:
        return names.replace(",", " ").split() if isinstance(names, str) else names

    @field_validator("line_protocol_stream")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        return line_protocol_names.check_pattern(pattern)


class MqttSettings(BaseSettings):
    """The settings of ``meanwhile mqtt``, apart from those that say where the streams are stored."""

    model_config = SettingsConfigDict(env_prefix="MEANWHILE_MQTT_", env_ignore_empty=True, extra="ignore")

    url: str = Field(
        "mqtt://127.0.0.1:1883",
        pattern=r"^mqtts?://\S+$",
        description="URL of the broker: mqtt://[user[:password]@]host[:port], or mqtts:// for TLS.",
    )
    topic: Annotated[list[str], NoDecode] = Field(
        ["#"],
        min_length=1,
        description="Topic filter to subscribe to, with or without wildcards. Repeat the option for several filters; "
        "in the variable, separate them with spaces.",
    )
    client_id: str = Field(
        "meanwhile",
        min_length=1,
        max_length=64,
        description="Client identifier of the session at the broker. Every process needs a different one.",
    )
    username: str | None = Field(None, description="User name, if it is not in the URL.")
    password: str | None = Field(None, description="Password, if it is not in the URL.")
    ca: Path | None = Field(None, description="File of CA certificates to trust instead of the system's.")
    cert: Path | None = Field(None, description="File with the client certificate.")
    key: Path | None = Field(None, description="File with the private key of the client certificate.")
    stream_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._:~/-]*$", description="Prefix of the stream names, before the topic."
    )
    split: bool = Field(False, description="Record each field of a JSON object as a separate stream, <topic>/<field>.")
    sequence: str | None = Field(
        None,
        description="Member of JSON objects that holds a sequence number; each message is then counted once, however "
        "often it is published.",
    )
    in_flight: int = Field(
        100, ge=1, le=10_000, description="Maximum number of unacknowledged messages (Receive Maximum)."
    )
    journal: Path | None = Field(
        None,
        description="File that remembers which messages were recorded, so that a crash does not count any twice. "
        "Default: mqtt-<client id>.journal in the data directory.",
    )
    publish: str | None = Field(
        None,
        description="Publish each average as a retained message at <publish>/<stream>.",
    )
    home_assistant: bool = Field(False, description="Also publish discovery messages for Home Assistant.")
    discovery: str = Field("homeassistant", description="Topic prefix of the discovery messages for Home Assistant.")

    @field_validator("topic", mode="before")
    @classmethod
    def _split_at_spaces(cls, topic: object) -> object:
        return topic.split() if isinstance(topic, str) else topic

    @field_validator("topic")
    @classmethod
    def _are_filters(cls, topics: list[str]) -> list[str]:
        for topic in topics:
            _check_mqtt_text(topic)
        if not all(topic and _FILTER.fullmatch(topic) for topic in topics):
            raise ValueError("Expected + only as a complete level of the topic, and # only as its last level.")
        if any(topic.split("/")[0] == "$share" and not _SHARED.fullmatch(topic) for topic in topics):
            raise ValueError("Expected a shared subscription to have a group and a topic: $share/<group>/<topic>.")
        return topics

    @field_validator("url")
    @classmethod
    def _check_port_and_user(cls, url: str) -> str:
        parts = _parts(url)
        for text in (parts.username, parts.password):
            _check_mqtt_text(unquote(text or ""), "Expected a user and a password")
        return url

    @field_validator("client_id", "username", "password")
    @classmethod
    def _is_mqtt_text(cls, text: str | None) -> str | None:
        _check_mqtt_text(text or "")
        return text

    @field_validator("publish", "discovery")
    @classmethod
    def _is_published(cls, topic: str | None) -> str | None:
        if topic is not None and not _PUBLISHED.fullmatch(topic):
            raise ValueError("Expected a topic without + and #, without $ at the start and / at the end.")
        _check_mqtt_text(topic or "", maximum=_MAX_PUBLISHED)
        return topic

    @field_validator("ca", "cert", "key")
    @classmethod
    def _is_there(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and str(info.data.get("url", "")).startswith("mqtt://"):
            raise ValueError("Expected a URL that starts with mqtts:// with this option; mqtt:// does not use TLS.")
        if file is not None and not file.is_file():
            raise ValueError("Expected an existing file.")
        return file


def _check_mqtt_text(text: str, expected: str = "Expected text", maximum: int = _MAX_MQTT_TEXT) -> None:
    """Raises ``ValueError`` if MQTT cannot transfer the text; the message does not contain it."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # It has surrogates, which stand for bytes that are not UTF-8.
        size = maximum + 1
    if "\0" in text or size > maximum:
        raise ValueError(f"{expected} of at most {maximum:,} bytes in UTF-8, without NUL.")


def _parts(url: str) -> SplitResult:
    """The parts of a URL. Raises ``ValueError`` without the original message, which may contain part of a password."""
    try:
        parts = urlsplit(url)
        is_usable = parts.port != 0  # The attribute parses the port, and raises if it is not valid.
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("Expected a host and a port from 1 to 65535. Write a / in the password as %2F.")
    return parts
