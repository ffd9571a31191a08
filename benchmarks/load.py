"""Drives wrk, an HTTP load generator in C that keeps its clients busy and spends little of the machine on it."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_name("replay.lua")
_PATIENCE = 10  # Seconds before wrk gives an answer up.


class LoadError(Exception):
    """A round that says nothing about speed: wrk is missing, or something was not answered with a success."""


class WrkMissing(LoadError):
    """There is no wrk on PATH."""

    def __init__(self) -> None:
        super().__init__(
            "wrk drives the load and is not installed. Debian and Ubuntu: apt install wrk; macOS: brew install wrk."
        )


@dataclass(frozen=True)
class Sample:
    """What one round measured: answers, seconds, and latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


class _Report(msgspec.Struct):
    requests: int
    microseconds: int
    p50: int
    p99: int
    refused: int
    failed: int
    timed_out: int


class Wrk:
    """wrk, on PATH. Raises ``WrkMissing``."""

    def __init__(self) -> None:
        program = shutil.which("wrk")
        if program is None:
            raise WrkMissing
        self._program = program

    def version(self) -> str:
        """The version of wrk, which it prints before it complains that there is nothing to do."""
        output = subprocess.run([self._program, "-v"], capture_output=True, text=True, check=False).stdout
        return output.partition("[")[0].removeprefix("wrk").strip()

    def run(
        self, url: str, requests: Sequence[bytes], seconds: int, *, connections: int = 1, pause: float = 0
    ) -> Sample:
        """Sends ``requests`` in turn for some seconds. Raises ``LoadError`` unless each was answered with a success.

        Each of the ``connections`` keep-alive clients sends its next request when it has its answer, and ``pause``
        milliseconds later on average.

        When the time is up wrk hangs up, so up to one more request a client may be carried out without being counted.
        """
        with tempfile.NamedTemporaryFile() as file:
            file.writelines(b"%d\n%b" % (len(request), request) for request in requests)
            file.flush()
            finished = subprocess.run(
                [
                    *(self._program, "--threads", "1", "--connections", str(connections)),
                    *("--duration", f"{seconds}s", "--timeout", f"{_PATIENCE}s"),
                    *("--script", str(_SCRIPT), url, "--", file.name, str(pause)),
                ],
                capture_output=True,
                text=True,
                timeout=seconds + 6 * _PATIENCE,
                check=False,
            )
        lines = [line for line in finished.stdout.splitlines() if line.startswith('{"requests"')]
        if finished.returncode != 0 or not lines:
            raise LoadError(f"wrk failed: {finished.stderr.strip() or finished.stdout.strip()}")
        report = msgspec.json.decode(lines[0], type=_Report)
        if report.refused or report.failed or report.timed_out or not report.requests:
            raise LoadError(
                f"not every request was answered with a success: {report.requests} answers, of which {report.refused} "
                f"with a status of 400 or more; {report.failed} connections failed, {report.timed_out} answers overdue"
            )
        return Sample(report.requests, report.microseconds / 1e6, report.p50 / 1e3, report.p99 / 1e3)
