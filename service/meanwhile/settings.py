"""What an operator can set: each an environment variable ``MEANWHILE_<NAME>`` and an option of ``meanwhile serve``.

``MqttSettings`` are those of ``meanwhile mqtt``, as ``MEANWHILE_MQTT_<NAME>``.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from meanwhile.formats import line_protocol_names

_FILTER = re.compile(r"(([^/+#]*|\+)/)*([^/+#]*|\+|#)")  # MQTT 5.0, 4.7.1.
_STOP_MARGIN = 2.0  # Seconds.
WORKERS_SHARE = "MEANWHILE_WORKERS_SHARE"  # Where a parent tells its workers the directory in which they count.


def default_data_dir() -> Path:
    """Where a user's programs keep their data, by the XDG Base Directory specification; needs no home until used."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "meanwhile"


class Settings(BaseSettings):
    """The settings of one service. Built by the command line or from the environment, never at import."""

    model_config = SettingsConfigDict(env_prefix="MEANWHILE_", env_ignore_empty=True, extra="ignore")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Worker processes.")
    redis_url: str | None = Field(
        None,
        pattern=r"^(redis|rediss|unix)://\S+$",
        description="Redis or Valkey to keep the streams in: redis://, rediss:// or unix://. "
        "Without it an embedded Valkey is started.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Directory of the embedded Valkey. By default ~/.local/share/meanwhile.",
    )
    prefix: str = Field(
        "meanwhile",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Start of every key in Redis: <prefix>:stream:<name>.",
    )
    redis_timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Timeout for Redis, in seconds. A request that waits longer is answered with an error.",
    )
    durability: Literal["fsync", "everysec", "replicated"] = Field(
        "fsync",
        description="What 200 means: fsynced; written, fsynced within a second; or fsynced and with the replicas.",
    )
    replicas: int = Field(1, ge=1, le=16, description="Replicas that must have a commit when durability is replicated.")
    strict: bool = Field(
        False,
        description="Report not ready (/readyz answers 503) while Redis is configured to keep less than a 200 "
        "promises, or while that cannot be verified.",
    )
    require_idempotency_key: bool = Field(False, description="Refuse readings without an Idempotency-Key.")
    api_keys: Path | None = Field(
        None,
        description="File of API keys, reloaded on SIGHUP. Without it, anyone who can reach the service can use it.",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        [],
        description="Host names that a service without API keys answers to, besides addresses, single labels, .local, "
        ".internal, .home.arpa and .lan: with spaces between them; *.example.org for all below, * for any.",
    )
    max_streams: int = Field(
        0,
        ge=0,
        description="Maximum number of keys in the Redis database; beyond it, no new streams are created. "
        "0 means no limit.",
    )
    max_waiting: int = Field(200_000, ge=1, description="Readings that may wait for a commit, per worker.")
    max_subscribers: int = Field(2_000, ge=0, description="Event streams that may be open at once, per worker.")
    max_connections: int = Field(4_096, ge=1, description="Connections that may be open at once, per worker.")
    max_receiving: int = Field(
        64 * 1024 * 1024,
        ge=1,
        description="Bytes of request bodies that may be held while the rest of them is received, per worker. Bodies "
        "of up to 64 KiB do not count, and one body is always taken.",
    )
    max_body: int = Field(
        8 * 1024 * 1024, ge=1, description="Bytes in a request body, or in a line of NDJSON, after inflation."
    )
    max_readings: int = Field(100_000, ge=1, description="Readings in a request; NDJSON has no limit.")
    max_numbers: int = Field(1_500_000, ge=1, description="Numbers in a request; NDJSON has no limit.")
    max_components: int = Field(1_024, ge=1, description="Numbers in a value.")
    max_names: int = Field(64, ge=1, description="Names in an object.")
    max_uploads: int = Field(100, ge=0, description="NDJSON uploads that may be open at once, per worker.")
    upload_idle_timeout: float = Field(
        300.0,
        gt=0,
        description="Seconds that an open upload may stay idle: without a complete line in that time, the service "
        "ends it.",
    )
    line_protocol_stream: str = Field(
        line_protocol_names.DEFAULT, description="Which stream a field of a line protocol point is recorded in."
    )
    line_protocol_dedupe: bool = Field(
        False, description="Count each point of line protocol once, by its timestamp, as ?dedupe=timestamp does."
    )
    shutdown_timeout: int = Field(
        10, ge=0, description="Time that running requests get to finish at shutdown, in seconds."
    )
    access_log: bool = Field(False, description="Log a line for every request.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What to log.")

    @property
    def stop_timeout(self) -> float:
        """Seconds after a signal within which every process has ended, or is ended: the last commits take time, too."""
        return self.shutdown_timeout + self.redis_timeout + _STOP_MARGIN

    @field_validator("redis_url")
    @classmethod
    def _has_a_port_and_a_database_that_are_ones(cls, url: str | None) -> str | None:
        parts = _parts(url or "")
        if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdecimal():
            raise ValueError("Expected the number of a database after the host, and %2F for a / in a password.")
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
    """What ``meanwhile mqtt`` needs to know besides where the streams are."""

    model_config = SettingsConfigDict(env_prefix="MEANWHILE_MQTT_", env_ignore_empty=True, extra="ignore")

    url: str = Field(
        "mqtt://127.0.0.1:1883",
        pattern=r"^mqtts?://\S+$",
        description="The broker: mqtt://[user[:password]@]host[:port], or mqtts:// for TLS.",
    )
    topic: Annotated[list[str], NoDecode] = Field(
        ["#"],
        min_length=1,
        description="Topic to subscribe to, with wildcards. Repeatable; the variable has spaces.",
    )
    client_id: str = Field(
        "meanwhile", min_length=1, max_length=64, description="Names our session at the broker; one process each."
    )
    username: str | None = Field(None, description="User, if it is not in the URL.")
    password: str | None = Field(None, description="Password, if it is not in the URL.")
    ca: Path | None = Field(None, description="File of certificates to trust, instead of the system's.")
    cert: Path | None = Field(None, description="File with our certificate.")
    key: Path | None = Field(None, description="File with the key of our certificate.")
    stream_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._:~/-]*$", description="Start of the stream names; the topic follows."
    )
    split: bool = Field(False, description="Make a stream of each field of a JSON object, as <topic>/<field>.")
    sequence: str | None = Field(
        None, description="Member of JSON objects that is a sequence, by which a message is counted once."
    )
    in_flight: int = Field(
        100, ge=1, le=10_000, description="Messages that the broker may send ahead: Receive Maximum."
    )
    journal: Path | None = Field(
        None,
        description="What a crash must not forget. By default mqtt-<client id>.journal in the data directory.",
    )
    publish: str | None = Field(
        None,
        pattern=r"^[^#+]*[^#+/]$",
        description="Publish averages, retained, as <publish>/<stream>.",
    )
    home_assistant: bool = Field(False, description="Publish discovery messages for Home Assistant, too.")
    discovery: str = Field("homeassistant", min_length=1, description="Where Home Assistant looks for them.")

    @field_validator("topic", mode="before")
    @classmethod
    def _split_at_spaces(cls, topic: object) -> object:
        return topic.split() if isinstance(topic, str) else topic

    @field_validator("topic")
    @classmethod
    def _are_filters(cls, topics: list[str]) -> list[str]:
        if not all(topic and _FILTER.fullmatch(topic) for topic in topics):
            raise ValueError("Expected + only as a whole level of a topic, and # only as its last one.")
        return topics

    @field_validator("url")
    @classmethod
    def _has_a_port_that_is_one(cls, url: str) -> str:
        _parts(url)
        return url

    @field_validator("ca", "cert", "key")
    @classmethod
    def _is_there(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and str(info.data.get("url", "")).startswith("mqtt://"):
            raise ValueError("Expected it beside a URL that starts with mqtts://; mqtt:// does not use TLS.")
        if file is not None and not file.is_file():
            raise ValueError("Expected a file that exists.")
        return file


def _parts(url: str) -> SplitResult:
    """The parts of a URL. Raises ``ValueError``, in words of ours: others may hold part of a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # It is worked out, and refused, when it is looked at.
    except ValueError:
        raise ValueError("Expected a host, a port from 0 to 65535, and %2F for a / in a password.") from None
    return parts
