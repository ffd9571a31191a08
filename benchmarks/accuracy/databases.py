"""Databases that aggregate stored values, and Valkey's counter for floating-point numbers."""

import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import duckdb
import redis

from benchmarks.accuracy.formulas import textbook
from benchmarks.accuracy.peer import Answer, Answers, Peer, for_each
from tests.support.servers import Valkey, eventually

_BATCH = 5_000  # Values in one run of the script; Lua unpacks at most 8,000.


def sqlite() -> Peer:
    """Returns SQLite as Python comes with it. It has no deviation, so it sums the squares."""
    how = "`avg(x)`; the deviation from `sum(x)` and `sum(x * x)`"
    return Peer("SQLite", sqlite3.sqlite_version, how, "every value", for_each(_sqlite))


def _sqlite(values: Sequence[float]) -> Answer:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table t (x real)")
        connection.executemany("insert into t values (?)", ((value,) for value in values))
        (mean, total, squares) = connection.execute("select avg(x), sum(x), sum(x * x) from t").fetchone()
    return Answer(mean, textbook(len(values), total, squares).deviation)


def duckdb_functions() -> list[Peer]:
    """Returns DuckDB, which has two means: ``favg`` is slower and compensates for rounding (Kahan)."""
    return [
        Peer(
            f"DuckDB `{name}`",
            duckdb.__version__,
            f"`{name}(x)`, `stddev_samp(x)`",
            "every value",
            for_each(partial(_duckdb, name)),
        )
        for name in ("avg", "favg")
    ]


def _duckdb(function: str, values: Sequence[float]) -> Answer:
    with duckdb.connect() as connection:
        connection.execute("create table t as select unnest(?::double[]) as x", [list(values)])
        found = connection.execute(f"select {function}(x), stddev_samp(x) from t").fetchone()
    assert found is not None
    return Answer(*found)


@contextmanager
def incrbyfloat(server: Valkey) -> Iterator[Peer]:
    """Yields Valkey with two keys for each series: the sum and the sum of squares."""
    with redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as client:
        add = client.register_script(
            "for i = 1, #ARGV, 2 do\n"
            "  redis.call('INCRBYFLOAT', KEYS[1], ARGV[i])\n"
            "  redis.call('INCRBYFLOAT', KEYS[2], ARGV[i + 1])\n"
            "end"
        )

        def answer(values: Sequence[float]) -> Answer:
            client.delete("sum", "squares")
            for start in range(0, len(values), _BATCH):
                batch = values[start : start + _BATCH]
                add(keys=["sum", "squares"], args=[repr(number) for x in batch for number in (x, x * x)])
            return textbook(len(values), float(client.get("sum") or 0), float(client.get("squares") or 0))

        server_info = client.info("server")
        version = server_info.get("valkey_version") or server_info["redis_version"]
        how = "`INCRBYFLOAT sum x`, `INCRBYFLOAT squares x*x`"
        yield Peer("Valkey `INCRBYFLOAT`", version, how, "constant", for_each(answer))


def postgresql() -> Peer | None:
    """Returns PostgreSQL, or None if it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed or shutil.which("psql") is None:
        return None
    programs = installed[-1].parent
    text = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"[\d.]+", text)
    assert version is not None
    how = "`avg(x)`, `stddev_samp(x)` of `double precision`"
    return Peer("PostgreSQL", version[0], how, "every value", lambda series: _postgresql(programs, series))


def _postgresql(programs: Path, series: Mapping[str, Sequence[float]]) -> Answers:
    """Runs a server on a unix socket; it refuses to run as root, so root runs it as ``postgres``."""
    is_root = os.geteuid() == 0
    prefix = ["runuser", "-u", "postgres", "--"] if is_root else []
    user = "postgres" if is_root else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as directory:
        if is_root:
            shutil.chown(directory, "postgres")
        data = f"{directory}/data"
        subprocess.run([*prefix, programs / "initdb", "--auth=trust", "-D", data], capture_output=True, check=True)
        server = subprocess.Popen(
            [*prefix, programs / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", directory, "-U", user, "postgres"]
            eventually(lambda: subprocess.run([*psql, "-c", ""], capture_output=True, check=False).returncode == 0)
            found = {}
            for name, values in series.items():
                rows = "\n".join(map(repr, values))
                script = (
                    f"create temp table t (x double precision);\ncopy t from stdin;\n{rows}\n\\.\n"
                    "select avg(x), stddev_samp(x) from t;\n"
                )
                ran = subprocess.run(psql, input=script, capture_output=True, text=True, check=True)
                mean, deviation = ran.stdout.split("|")
                found[name] = Answer(float(mean), float(deviation))
            return found
        finally:
            server.terminate()
            server.wait(20)
