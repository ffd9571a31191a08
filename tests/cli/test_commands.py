"""``meanwhile send`` and ``meanwhile average``: real data in, exact averages out, and nothing refused in silence."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import ValidationError

from meanwhile.api.key_file import read_keys
from meanwhile.settings import Settings
from tests.support import calls, processes
from tests.support.numbers import is_rounded_root
from tests.support.paths import DATA
from tests.support.running_service import kill_everything, state
from tests.support.servers import Service, clean_environment, meanwhile, service

AIR_QUALITY = DATA / "air-quality.csv"
STREAMS = {
    "CO(GT)": "air/CO_GT",
    "PT08.S1(CO)": "air/PT08.S1_CO",
    "NMHC(GT)": "air/NMHC_GT",
    "C6H6(GT)": "air/C6H6_GT",
    "PT08.S2(NMHC)": "air/PT08.S2_NMHC",
    "NOx(GT)": "air/NOx_GT",
    "PT08.S3(NOx)": "air/PT08.S3_NOx",
    "NO2(GT)": "air/NO2_GT",
    "PT08.S4(NO2)": "air/PT08.S4_NO2",
    "PT08.S5(O3)": "air/PT08.S5_O3",
    "T": "air/T",
    "RH": "air/RH",
    "AH": "air/AH",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as started:
        yield started


@cache
def columns() -> dict[str, list[float]]:
    """The readings by column, read without the code under test."""
    with AIR_QUALITY.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if float(row[name]) != -200] for name in STREAMS}


@cache
def exact(column: str) -> tuple[Fraction, Fraction]:
    """The mean and the sample variance of a column."""
    values = list(map(Fraction, columns()[column]))
    count, total = len(values), sum(values, Fraction())
    return total / count, (count * sum(value * value for value in values) - total**2) / (count * (count - 1))


def check_air_quality(running: Service) -> None:
    for column, values in columns().items():
        mean, variance = exact(column)
        reply = state(running, STREAMS[column])
        assert len(values) == reply["count"]
        assert float(mean) == reply["average"]
        assert min(values) == reply["minimum"]
        assert max(values) == reply["maximum"]
        assert is_rounded_root(reply["standard_deviation"], variance)


def test_a_year_of_real_air_quality_is_exact_and_survives_a_kill_9_of_everything() -> None:
    with service() as started:
        sent = meanwhile("send", str(AIR_QUALITY), "--prefix", "air/", "--missing", "-200", "--url", started.url)
        assert sent.returncode == 0, sent.stderr
        assert f"{sum(map(len, columns().values()))} readings recorded" in sent.stdout
        assert "skipped Date: not numeric" in sent.stdout
        check_air_quality(started)
        kill_everything(started)
        started.start()
        check_air_quality(started)


def test_average_prints_the_bare_number(running: Service) -> None:
    calls.post(f"{running.url}/v1/streams/a/readings", json={"values": [1e16, 1.0, -1e16]})
    printed = meanwhile("average", "a", "--url", running.url)
    assert (0, "0.3333333333333333\n") == (printed.returncode, printed.stdout)


def test_average_of_a_stream_that_does_not_exist_fails_with_the_reason(running: Service) -> None:
    printed = meanwhile("average", "nothing/here", "--url", running.url)
    assert (1, "") == (printed.returncode, printed.stdout)
    assert "404: No such stream" in printed.stderr


@pytest.mark.parametrize("stream", ["x?", "x#", "../x", "x/average", ""])
def test_average_of_what_is_no_name_is_refused(running: Service, stream: str) -> None:
    """Sent as it is, a "?" would ask for another path and print what that answers."""
    failed = meanwhile("average", stream, "--url", running.url)
    assert (1, "", "This is not a valid stream name.\n") == (failed.returncode, failed.stdout, failed.stderr)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "Cannot connect to the service at http://127.0.0.1:1."),
        ("nonsense", "nonsense is not a valid URL that starts with http:// or https://."),
    ],
)
def test_average_does_not_wait_for_a_service_that_is_not_there(url: str, reason: str) -> None:
    """Unlike ``send``, which says that it waits, and waits."""
    failed = meanwhile("average", "x", "--url", url)
    assert (1, "", f"{reason}\n") == (failed.returncode, failed.stdout, failed.stderr)


def test_send_counts_what_is_missing_and_refuses_what_is_no_number(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("when,b/t,b/u\n2026-01-01,1.5,10\n2026-01-02,,n/a\n2026-01-03,oops,30\n2026-01-04,4.5,40\n")
    sent = meanwhile("send", str(file), "--missing", "n/a", "--url", running.url)
    assert sent.returncode == 1
    assert (
        "refused 1 cell of b/t, first in line 4: expected numbers that are 0 or have a magnitude from 1e-140 to 1e+140"
        in sent.stdout
    )
    assert (2, 3.0) == (state(running, "b_t")["count"], state(running, "b_t")["average"])
    assert (3, 80 / 3) == (state(running, "b_u")["count"], state(running, "b_u")["average"])


def test_send_leaves_out_only_what_the_service_refuses(running: Service, tmp_path: Path) -> None:
    calls.post(f"{running.url}/v1/streams/c/vector/readings", json={"value": [1.0, 2.0]})
    file = tmp_path / "readings.csv"
    file.write_text("vector,good\n" + "".join(f"1,{value}\n" for value in ["1", "2", "1e200", "4", "1e-200", "6"]))
    sent = meanwhile("send", str(file), "--prefix", "c/", "--url", running.url)
    assert sent.returncode == 1
    assert (4, 3.25) == (state(running, "c/good")["count"], state(running, "c/good")["average"])
    assert 1 == state(running, "c/vector")["count"]
    assert "refused for c/vector: 409: The stream has a different shape" in sent.stdout
    assert "refused 2 cells of good, first in line 4: expected numbers" in sent.stdout
    assert "4 readings recorded" in sent.stdout


def test_send_divides_the_columns_of_what_is_too_much_for_a_request(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("a,b\n" + "".join(f"{n},{-n}\n" for n in range(1, 51)))
    with service(MEANWHILE_MAX_READINGS="60") as started:
        sent = meanwhile("send", str(file), "--url", started.url)
        assert (0, "100 readings recorded\n") == (sent.returncode, sent.stdout.splitlines(keepends=True)[-1])
        assert (50, 25.5) == (state(started, "a")["count"], state(started, "a")["average"])


@pytest.mark.parametrize(
    ("limit", "value"), [("MEANWHILE_MAX_READINGS", "7"), ("MEANWHILE_MAX_NUMBERS", "7"), ("MEANWHILE_MAX_BODY", "90")]
)
def test_another_limit_of_the_service_neither_doubles_nor_loses_readings(
    tmp_path: Path, limit: str, value: str
) -> None:
    """Parts of a column had sequences of their own, which a run under another limit did not know."""
    file = tmp_path / "readings.csv"
    file.write_text("a\n" + "".join(f"{n}\n" for n in range(50)))
    small, usual = {limit: value}, dict[str, str]()

    def send_under(limits: dict[str, str]) -> subprocess.CompletedProcess[str]:
        kill_everything(started)
        started.environment = limits
        started.start()
        return meanwhile("send", str(file), "--url", started.url)

    with service() as started:
        refused = send_under(small)
        assert 1 == refused.returncode
        assert limit in refused.stderr
        assert "run the command again" in refused.stderr
        assert 404 == calls.get(f"{started.url}/v1/streams/a").status_code
        for limits, code in ((usual, 0), (small, 1), (usual, 0)):
            assert code == send_under(limits).returncode
            assert 50 == state(started, "a")["count"]


def test_many_files_for_one_stream_are_counted_once_each_even_two_at_a_time(running: Service, tmp_path: Path) -> None:
    files = [tmp_path / f"{month}.csv" for month in range(24)]
    for month, file in enumerate(files):
        file.write_text("f\n" + "".join(f"{month}.{day}\n" for day in range(10, 20)))
    for both in zip(files[::2], files[1::2], strict=True):
        with Path(os.devnull).open("w") as nowhere:
            sending = [
                processes.start(
                    *("send", str(file), "--prefix", "h/", "--url", running.url),
                    env=clean_environment(),
                    stdout=nowhere,
                    stderr=nowhere,
                )
                for file in (*both, both[0])
            ]
        assert [0, 0, 0] == [one.wait(60) for one in sending]
    assert 240 == state(running, "h/f")["count"]


def test_an_open_quote_is_said_and_not_taken_for_the_rest_of_the_file(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "open.csv"
    file.write_text('a,note\n1,x\n2,"y\n3,z\n4,w\n')
    sent = meanwhile("send", str(file), "--prefix", "open/", "--url", running.url)
    assert (1, True) == (sent.returncode, "is not CSV in UTF-8: unexpected end of data" in sent.stderr)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:0", "ftp://x", "127.0.0.1:8000", "http://"]
)
def test_a_url_that_is_none_is_said_at_once(url: str) -> None:
    said = meanwhile("average", "a", "--url", url)
    assert (1, f"{url} is not a valid URL that starts with http:// or https://.\n") == (said.returncode, said.stderr)


def test_the_entry_of_a_key_with_any_name_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    made = [meanwhile("key", name).stdout for name in ("\U0001f600", 'a "b" \\c', "\u00e9")]
    file.write_text("".join(made))
    assert ["\U0001f600", 'a "b" \\c', "\u00e9"] == [key["name"] for key in tomllib.loads(file.read_text())["key"]]
    assert 3 == len(read_keys(file))
    assert 2 == meanwhile("key", "a\x7f").returncode


def test_columns_that_would_share_a_stream_are_refused(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("e(1),e[1]\n1,2\n")
    sent = meanwhile("send", str(file), "--url", running.url)
    assert sent.returncode == 1
    assert "make the same stream e_1" in sent.stderr


def test_a_file_that_is_no_table_is_refused(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_bytes(b"x\n1\n\xff\xfe\n")
    sent = meanwhile("send", str(file), "--url", running.url)
    assert sent.returncode == 1
    assert "is not CSV in UTF-8" in sent.stderr


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("", 1, "has no header row"),
        ("\n\n", 1, "has no header row"),
        (",\n1,2\n", 1, "has no header row"),
        ("name,place\na,b\n", 1, "No column is numeric"),
        ("name,place\n", 0, "skipped name: no readings"),
    ],
)
def test_a_file_of_which_nothing_can_be_sent_says_why(tmp_path: Path, content: str, code: int, said: str) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(content)
    sent = meanwhile("send", str(file), "--url", "http://127.0.0.1:9")
    assert code == sent.returncode
    assert said in sent.stdout + sent.stderr


def test_an_index_without_a_header_is_left_out(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "pandas.csv"
    file.write_text(",f/x\n0,1.5\n1,2.5\n")
    sent = meanwhile("send", str(file), "--url", running.url)
    assert (0, 2.0) == (sent.returncode, state(running, "f_x")["average"])
    assert "skipped a column without header" in sent.stdout


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("x\n1\n")
    for arguments, said in [
        (["send", str(file), "--delimiter", ";;"], "--delimiter: Expected a single character."),
        (["send", "/dev/null"], "/dev/null is not a regular file"),
        (["key", ""], "Expected a name for the key, made of printable characters."),
        (["key", "gateway", "--prefix", "no prefix"], "--prefix: Expected a prefix of a stream name"),
        (["mqtt", "--topic", "a#"], "--topic: "),
        (["mqtt", "--url", "mqtt://127.0.0.1:99999"], "--url: "),
        (["mqtt", "--url", "mqtts://127.0.0.1", "--ca", "/nowhere"], "--ca: "),
    ]:
        refused = meanwhile(*arguments)
        assert (2, True) == (refused.returncode, said in refused.stderr), (arguments, refused.stderr)


def test_a_key_that_is_none_is_said_in_one_line() -> None:
    refused = meanwhile("average", "a", "--key", "\u00fc", "--url", "http://127.0.0.1:9")
    assert (1, "The API key contains characters that are not allowed in a key.\n") == (
        refused.returncode,
        refused.stderr,
    )


def test_ctrl_c_says_how_far_send_came_and_that_it_waits_for_a_service_that_is_away(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text("x\n1\n")
    command = [sys.executable, "-m", "meanwhile", "send", str(file), "--url", "http://127.0.0.1:9"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean_environment()) as sending:
        assert sending.stderr is not None
        assert "Cannot connect to the service at http://127.0.0.1:9. Retrying.\n" == sending.stderr.readline()
        sending.send_signal(signal.SIGINT)
        assert "Stopped. Recorded: 0 readings." in sending.stderr.read()
    assert 130 == sending.returncode


def test_the_version_is_that_of_the_package() -> None:
    assert f"meanwhile {version('meanwhile-server')}\n" == meanwhile("--version").stdout


def test_a_message_is_one_line_however_narrow_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / ("a-long-name" * 10)
    file.write_text("")
    sent = meanwhile("send", str(file), COLUMNS="40")
    assert f"{file} has no header row.\n" == sent.stderr


def test_every_setting_is_an_option_and_an_environment_variable() -> None:
    printed = meanwhile("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in printed
        assert f"MEANWHILE_{name.upper()}" in printed


def test_sending_the_same_file_again_changes_nothing(running: Service) -> None:
    arguments = ["--prefix", "again/", "--missing", "-200", "--url", running.url]
    with TemporaryDirectory() as directory:
        file = Path(directory) / "readings.csv"
        file.write_text("".join(AIR_QUALITY.read_text().splitlines(keepends=True)[:300]) + ",,bad,1e200,1,1\n")
        first = meanwhile("send", str(file), *arguments)
        names = [name.replace("air/", "again/") for name in STREAMS.values()]
        before = [state(running, name) for name in names]
        again = meanwhile("send", str(file), *arguments)
    assert before == [state(running, name) for name in names]
    assert (1, 1) == (first.returncode, again.returncode)
    recorded = sum(reply["count"] for reply in before)
    assert f"{recorded} readings recorded\n" in first.stdout
    assert f"{recorded} readings recorded, {recorded} of them in an earlier run" in again.stdout


def test_a_key_is_shown_once_and_opens_the_service_for_send_and_average(tmp_path: Path) -> None:
    made = meanwhile("key", "laptop", "--scope", "read", "--scope", "write", "--prefix", "air/")
    (secret,) = re.findall(r"mw_\S+", made.stderr)
    assert secret not in made.stdout
    keys, file = tmp_path / "keys.toml", tmp_path / "air.csv"
    keys.write_text(made.stdout)
    file.write_text("T\n1\n2\n")
    with service("--api-keys", str(keys)) as guarded:
        at = ["--url", guarded.url]
        assert "2 readings recorded\n" in meanwhile("send", str(file), "--prefix", "air/", "--key", secret, *at).stdout
        for refused in (
            meanwhile("send", str(file), "--prefix", "water/", "--key", secret, *at),
            meanwhile("average", "air/T", *at),
        ):
            assert 1 == refused.returncode
            assert re.search("401: An API key is required|403: The API key does not allow this", refused.stderr)
        assert "1.5\n" == meanwhile("average", "air/T", *at, MEANWHILE_KEY=secret).stdout


def test_a_key_of_an_unknown_scope_is_not_made() -> None:
    refused = meanwhile("key", "laptop", "--scope", "root")
    assert (2, "") == (refused.returncode, refused.stdout)
    assert "Unknown scope root. The scopes are read, write, admin." in refused.stderr


def test_a_file_of_keys_that_cannot_be_used_keeps_the_service_from_starting(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("[[key]]\nscopes = ['write']\nsha256 = 'mw_a_secret'\n")
    refused = meanwhile("serve", "--port", "0", "--data-dir", str(tmp_path), "--api-keys", str(keys))
    assert 1 == refused.returncode
    assert "In the API key file, [[key]] number 1 needs a sha256" in refused.stderr
    assert "mw_a_secret" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    "url", ["redis://user:pa/ssword@h:6379", "http://user:pa@ssword", "redis://u:ssword@h:99999", "redis://u@h/ssword"]
)
def test_a_redis_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(redis_url=url)
    (problem,) = refusal.value.errors()  # Of which the command line prints the message.
    assert "ssword" not in problem["msg"].replace("password", "")


def test_output_that_finds_no_space_is_said_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "meanwhile", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            check=False,
        )
    assert (1, "Cannot write the output: no space left on device.\n") == (ran.returncode, ran.stderr)


@pytest.mark.parametrize("arguments", ["--version", "key name", "average s --url http://127.0.0.1:1", "serve --help"])
@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
def test_a_command_whose_output_is_closed_ends_without_a_traceback(arguments: str, closed: str) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m meanwhile {arguments} {closed}"
    ended = subprocess.run(["sh", "-c", command], env=clean_environment(), stderr=subprocess.PIPE, check=False)
    assert (1 if "average" in arguments else 0) == ended.returncode
    assert b"Traceback" not in ended.stderr
    assert b"Error" not in ended.stderr


def test_certificates_beside_a_url_without_tls_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    refused = meanwhile("mqtt", "--url", "mqtt://127.0.0.1:9", "--ca", str(tmp_path / "ca.pem"))
    assert (2, True) == (
        refused.returncode,
        "--ca: Expected a URL that starts with mqtts:// with this option" in refused.stderr,
    )
