"""The process as a user runs it: what it says, how it stops, what survives when it is killed."""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from uvicorn.config import STARTUP_FAILURE

from meanwhile.api.key_file import key_entry
from meanwhile.storage.valkey_server import server_binary
from tests.support import calls, processes
from tests.support.running_service import (
    children,
    count,
    embedded,
    embedded_pid,
    is_alive,
    is_ready,
    kill_everything,
    post,
)
from tests.support.servers import (
    Service,
    Valkey,
    answers_ping,
    clean_environment,
    eventually,
    free_port,
    meanwhile,
    service,
    short_directory,
    valkey,
)


def test_start_up_says_where_it_listens_where_the_data_is_and_how_to_post() -> None:
    with processes.cold(), service() as running:
        assert "No API keys are set" in running.log
        assert f"Meanwhile listens on {running.url} and stores its streams in {running.data_dir}." in running.log
        assert f"curl {running.url}/v1/streams/kitchen/temperature/readings" in running.log
        assert "-d '{\"value\": 21.4}'" in running.log


def test_the_embedded_valkey_fsyncs_every_write_and_listens_nowhere_else() -> None:
    with service() as running, embedded(running) as client:
        assert {"appendonly": "yes"} == client.config_get("appendonly")
        assert {"appendfsync": "always"} == client.config_get("appendfsync")
        assert {"maxmemory-policy": "noeviction"} == client.config_get("maxmemory-policy")
        assert {"port": "0"} == client.config_get("port")
        assert 0o700 == (running.data_dir / "valkey.sock").stat().st_mode & 0o777


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("1", signal.SIGINT)])
def test_averages_survive_a_restart(workers: str, number: signal.Signals) -> None:
    with service("--workers", workers) as running:
        post(running, "kitchen/temperature", 21.0)
        valkey = embedded_pid(running)
        assert running.stop(number) == 0, running.log
        assert not is_alive(valkey)
        running.start()
        assert post(running, "kitchen/temperature", 22.0).json() == {
            "stream": "kitchen/temperature",
            "count": 2,
            "average": 21.5,
        }


@pytest.mark.parametrize("workers", ["1", "2"])
def test_averages_survive_a_kill_9_of_everything(workers: str) -> None:
    with service("--workers", workers) as running:
        post(running, "s", 21.0)
        kill_everything(running)
        running.start()
        assert post(running, "s", 22.0).json()["count"] == 2


def test_a_killed_parent_takes_its_workers_along_and_its_valkey_is_adopted() -> None:
    with service("--workers", "2") as running:
        assert running.process is not None
        post(running, "s", 1.0)
        valkey = embedded_pid(running)
        workers = [pid for pid in children(running.process.pid) if pid != valkey]
        running.process.kill()
        running.process.wait()
        eventually(lambda: not any(map(is_alive, workers)))
        assert is_alive(valkey)
        running.start()
        assert valkey == embedded_pid(running)
        assert "adopting the Valkey" in running.log
        assert post(running, "s", 2.0).json()["count"] == 2
        assert running.stop() == 0
        assert not is_alive(valkey)


def test_a_valkey_whose_lock_was_removed_is_adopted_all_the_same() -> None:
    """A second one on the same files would destroy them."""
    with service() as running:
        assert 200 == post(running, "s", 1.0).status_code
        valkey = embedded_pid(running)
        (running.data_dir / "valkey.lock").unlink()
        assert running.process is not None
        running.process.kill()
        running.process.wait()
        running.start()
        assert "adopting the Valkey" in running.log
        assert valkey == embedded_pid(running)
        assert 200 == post(running, "s", 1.0).status_code
        assert 2 == count(running, "s")
        assert 0 == running.stop()
        assert not is_alive(valkey)


def test_no_second_valkey_is_started_beside_one_without_the_lock() -> None:
    """As one of an older version, which locks only the file, after the file was removed."""
    with short_directory() as directory:
        running = Service(directory)
        socket_path = str(directory / "valkey.sock")
        arguments = ["--port", "0", "--unixsocket", socket_path, "--dir", str(directory)]
        with subprocess.Popen([str(server_binary()), *arguments], stdout=subprocess.DEVNULL) as process:
            try:
                eventually(lambda: answers_ping(directory / "valkey.sock"))
                running.start(until_live=False)
                assert running.process is not None
                assert 1 == running.process.wait(30)
                assert f"A Valkey (process {process.pid}) is running on {directory} but does not hold" in running.log
                assert process.poll() is None
            finally:
                process.terminate()


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "<&- 2>&-"])
def test_with_standard_streams_closed_it_serves_and_its_valkey_still_has_the_lock(closed: str) -> None:
    """As some process supervisors start it. The lock must not get the descriptor of a standard stream."""
    with short_directory() as directory:
        running = Service(directory)
        port = free_port()
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "meanwhile", "serve", "--port", str(port)],
            env=clean_environment() | {"MEANWHILE_DATA_DIR": str(directory)},
        )
        try:
            running.url = f"http://127.0.0.1:{port}"
            eventually(lambda: answers(running), seconds=30)
            assert 200 == post(running, "s", 1.0).status_code
            process.kill()
            process.wait()
            running.start()
            assert "adopting the Valkey" in running.log
            assert 1 == count(running, "s")
        finally:
            process.kill()
            process.wait()
            if running.process is not None:
                running.stop()


def answers(running: Service) -> bool:
    try:
        return is_ready(running)
    except httpx.TransportError:
        return False


def test_an_adopted_valkey_is_set_to_what_is_promised() -> None:
    with service() as running:
        post(running, "s", 1.0)
        changed = {"appendfsync": "no", "no-appendfsync-on-rewrite": "yes", "maxmemory-policy": "allkeys-lru"}
        with embedded(running) as client:
            for name, value in changed.items():
                client.config_set(name, value)
            assert running.process is not None
            running.process.kill()
            running.process.wait()
            running.start()
            found = client.config_get(*changed)
        assert {"appendfsync": "always", "no-appendfsync-on-rewrite": "no", "maxmemory-policy": "noeviction"} == found
        assert "the adopted Valkey had appendfsync 'no'" in running.log


def test_an_adopted_valkey_that_hangs_is_reported_with_its_process() -> None:
    with service() as running:
        valkey = embedded_pid(running)
        assert running.process is not None
        running.process.kill()
        running.process.wait()
        os.kill(valkey, signal.SIGSTOP)
        running.start(until_live=False)
        assert 1 == running.process.wait(30)
        assert f"The Valkey (process {valkey}) that is running on {running.data_dir} has not answered" in running.log
        assert f"kill -9 {valkey}" in running.log
        os.kill(valkey, signal.SIGKILL)
        running.start()


def test_a_valkey_that_hangs_is_reported_and_ended_with_the_service() -> None:
    with service() as running:
        valkey = embedded_pid(running)
        os.kill(valkey, signal.SIGSTOP)
        eventually(lambda: f"The Valkey (process {valkey}) that is running" in running.log)
        assert 0 == running.stop()
        assert f"Valkey (process {valkey}) on {running.data_dir} did not stop within 10 s: killing it" in running.log
        assert not is_alive(valkey)


def test_a_worker_that_has_lost_its_parent_and_still_has_the_port_is_waited_for() -> None:
    with service("--workers", "2") as running:
        assert running.process is not None
        eventually(lambda: running.log.count("Application startup complete") == 2)
        port = running.port
        valkey = embedded_pid(running)
        orphan, *_ = [pid for pid in children(running.process.pid) if pid != valkey and has_port(pid, port)]
        os.kill(orphan, signal.SIGSTOP)  # It is busy.
        running.process.kill()
        running.process.wait()
        running.start(port, until_live=False)
        try:
            eventually(lambda: f"port {port} is in use by workers of a service that was killed" in running.log)
        finally:
            os.kill(orphan, signal.SIGCONT)
        eventually(running.is_up)
        assert not is_alive(orphan)


def has_port(pid: int, port: int) -> bool:
    """Whether a process listens on this port. Other children only look after semaphores."""
    listening = (each for each in psutil.Process(pid).net_connections("tcp") if each.status == psutil.CONN_LISTEN)
    return any(each.laddr.port == port for each in listening if each.laddr)


_STUBBORN = """
import sys, time
import uvicorn
from meanwhile.process import server
from meanwhile.process.late_connections import LateConnections

async def app(scope, receive, send):
    await receive()
    if sys.argv[1] == "refuses":
        raise OSError
    await send({"type": "lifespan.startup.complete"})
    print("started", flush=True)
    await receive()
    time.sleep(600)

def run(workers):
    config = uvicorn.Config("stubborn:app", workers=workers, lifespan="on")
    with server._listen("127.0.0.1", 0, 0) as listener:
        late = LateConnections(listener.dup())
        if workers == 1:
            server._Server(config, 0.5, lambda: print("closed", flush=True), late).run([listener])
        else:
            server._Workers(config, listener, 0.5, late).run()
        late.close()
        print("ended", flush=True)

if __name__ == "__main__":
    run(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("workers", "last"), [("1", "closed"), ("2", "started")])
def test_a_process_that_hangs_in_spite_of_a_signal_is_ended_and_the_exit_code_says_so(
    workers: str, last: str, tmp_path: Path
) -> None:
    with stubborn(tmp_path, "hangs", workers) as process:
        assert process.stdout is not None
        for _ in range(int(workers)):
            assert "started\n" == process.stdout.readline()
        process.terminate()
        assert 1 == process.wait(60)
        assert (last == "closed") == ("closed\n" == process.stdout.readline())


def test_workers_that_cannot_start_end_the_service_with_an_exit_code(tmp_path: Path) -> None:
    with stubborn(tmp_path, "refuses", "2") as process:
        assert STARTUP_FAILURE == process.wait(60)


@contextmanager
def stubborn(directory: Path, what: str, workers: str) -> Iterator["subprocess.Popen[str]"]:
    """A service without Redis whose application hangs when it is to stop, or refuses to start."""
    (directory / "stubborn.py").write_text(_STUBBORN)
    process = subprocess.Popen(
        [sys.executable, str(directory / "stubborn.py"), what, workers],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment() | {"PYTHONPATH": f"{directory}:{Path.cwd()}"},
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_in_the_terminal_answers_what_is_under_way_before_valkey_stops() -> None:
    acknowledged: list[int] = []

    def send() -> None:
        with calls.client(timeout=20) as client:
            for _ in range(100_000):
                try:
                    reply = client.post(f"{running.url}/v1/streams/s/readings", json={"value": 1.0})
                except httpx.TransportError:
                    return
                statuses.add(reply.status_code)
                if reply.status_code == 200:
                    acknowledged.append(1)

    statuses: set[int] = set()
    with service("--workers", "2") as running:
        assert running.process is not None
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) > 200)
        os.killpg(running.process.pid, signal.SIGINT)  # What the terminal does: the whole foreground process group.
        assert running.process.wait(40) == 0, running.log
        for thread in threads:
            thread.join()
        assert {200} <= statuses <= {200, 503}  # 503 for connections that are made during the shutdown.
        running.start()
        assert len(acknowledged) <= count(running, "s") <= len(acknowledged) + len(threads)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_connection_that_is_made_during_the_shutdown_is_answered(workers: str) -> None:
    request = b"POST /v1/streams/s/readings HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    with service("--workers", workers) as running, ExitStack() as stack:
        eventually(lambda: running.log.count("Application startup complete") == int(workers))
        assert running.process is not None
        address = ("127.0.0.1", running.port)
        slow = stack.enter_context(socket.create_connection(address, timeout=60))
        slow.sendall(request + b"Content-Length: 12\r\n\r\n")
        eventually(lambda: httpx.get(f"{running.url}/livez").status_code == 200)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: running.log.count("Shutting down") == int(workers))
        replies: list[bytes] = []
        with suppress(ConnectionRefusedError, ConnectionResetError):  # Once it has stopped; the last one may be reset.
            while len(replies) < 100:
                late = stack.enter_context(socket.create_connection(address, timeout=60))
                late.sendall(request + b'Content-Length: 11\r\n\r\n{"value":1}')
                replies.append(received(late))
                if len(replies) == 50:
                    slow.sendall(b'{"value": 1}')
        statuses = [int(reply.split(b" ")[1]) for reply in replies]
        assert len(replies) >= 50
        assert b" 200 " in received(slow)
        assert 0 == running.process.wait(30)
        running.start()
        assert statuses.count(200) + 1 == httpx.get(f"{running.url}/v1/streams/s/count").json()["count"]
    assert {503} <= set(statuses) <= {200, 503}
    assert all(b"urn:meanwhile:problem:stopping" in reply for reply in replies if b" 503 " in reply)


def received(connection: socket.socket) -> bytes:
    """Everything until the end of the connection, or of a response of this length."""
    reply = b""
    while chunk := connection.recv(65536):
        reply += chunk
        head, _, body = reply.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None and len(body) >= int(length[1]):
            break
    return reply


def test_an_embedded_valkey_that_dies_is_started_again() -> None:
    with service() as running:
        post(running, "s", 1.0)
        os.kill(embedded_pid(running), signal.SIGKILL)
        eventually(lambda: is_ready(running))
        assert post(running, "s", 2.0).json() == {"stream": "s", "count": 2, "average": 1.5}
        assert "Valkey is gone; starting it again" in running.log


def test_workers_are_replaced_after_the_directory_of_their_counters_was_removed() -> None:
    with service(MEANWHILE_WORKERS="2") as running:
        assert running.process is not None
        descriptors = Path(f"/proc/{running.process.pid}/fd").iterdir()
        (shared,) = {file.resolve() for file in descriptors if file.resolve().name.startswith("meanwhile-")}
        eventually(lambda: len(workers_of(running)) == 2)
        doomed = workers_of(running)
        eventually((shared / f"{len(doomed) - 1}.cells").exists)  # Both have started.
        shutil.rmtree(shared)
        assert 200 == calls.get(f"{running.url}/metrics").status_code
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: answers(running))
        assert 200 == post(running, "s", 1.0).status_code
        assert "meanwhile_readings_recorded_total" in calls.get(f"{running.url}/metrics").text
        assert f"{shared}, cannot be used (No such file or directory): this worker counts alone" in running.log
        assert "the parent process is gone" not in running.log
        assert 0 == running.stop()


def test_a_second_service_on_the_same_data_is_refused() -> None:
    with service() as running:
        second = meanwhile("serve", "--port", "0", "--data-dir", str(running.data_dir))
        assert second.returncode == 1
        assert f"Another meanwhile is running on {running.data_dir}." in second.stderr
        assert is_ready(running)


def test_a_port_that_is_taken_is_said_plainly() -> None:
    with service() as running, short_directory() as directory:
        port = str(running.port)
        second = meanwhile("serve", "--port", port, "--data-dir", str(directory))
        assert second.returncode == 1
        assert f"Cannot listen on 127.0.0.1 port {port}: Address already in use." in second.stderr


def test_a_data_directory_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    refused = meanwhile("serve", "--port", "0", "--data-dir", str(tmp_path / ("x" * 120)))
    assert refused.returncode == 1
    assert "too long for a unix socket" in refused.stderr


def test_a_valkey_that_cannot_start_is_explained_with_the_end_of_its_log() -> None:
    with short_directory() as directory:
        (directory / "appendonlydir").write_text("This is not a directory.")
        refused = meanwhile("serve", "--port", "0", "--data-dir", str(directory))
        assert refused.returncode == 1
        assert "Valkey did not start" in refused.stderr
        assert "appendonlydir" in refused.stderr


def test_settings_that_make_no_sense_are_refused_by_name() -> None:
    refused = meanwhile("serve", "--port", "99999", "--workers", "0", "--host", "")
    assert refused.returncode == 2
    assert "--port: " in refused.stderr
    assert "--workers: " in refused.stderr
    assert "--host: " in refused.stderr


def test_an_option_in_the_redis_url_that_does_not_exist_is_refused_at_the_start() -> None:
    refused = meanwhile("serve", "--port", "0", "--redis-url", "redis://127.0.0.1:6379/0?colour=red", "--workers", "2")
    assert 1 == refused.returncode
    assert "The Redis URL cannot be used: the option colour is not supported." in refused.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_whose_redis_is_away_starts_says_so_and_recovers(workers: str) -> None:
    with short_directory() as directory:
        server = Valkey(directory)
        with service("--workers", workers, MEANWHILE_REDIS_URL=server.url) as running:
            refused = calls.get(f"{running.url}/readyz")
            assert refused.status_code == 503
            assert "1" == refused.headers["retry-after"]
            assert post(running, "s", 1.0).status_code == 503
            server.start()
            try:
                eventually(lambda: is_ready(running))
                assert post(running, "s", 1.0).json() == {"stream": "s", "count": 1, "average": 1.0}
            finally:
                assert running.stop() == 0
                server.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reads_the_keys_again_in_every_worker_and_stops_none(workers: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(key_entry("old", ["write"], "", "mw_old"))
    with service("--workers", workers, MEANWHILE_API_KEYS=str(keys)) as running:
        assert running.process is not None
        eventually(lambda: running.log.count("Application startup complete") == int(workers))
        assert "Every request needs an API key (1 API key is configured)" in running.log
        processes = children(running.process.pid)

        def statuses() -> set[int]:
            """What each key is told on a few connections of its own, so that every worker is asked."""
            return {
                calls.post(f"{running.url}/v1/streams/s/readings", json={"value": 1}, headers=presented).status_code
                * sign
                for _ in range(8)
                for presented, sign in (({"X-API-Key": "mw_old"}, 1), ({"Authorization": "Bearer mw_new"}, -1))
            }

        assert {200, -401} == statuses()
        keys.write_text(key_entry("new", ["write"], "", "mw_new"))
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: running.log.count("API keys in use: 1") == int(workers))
        assert {401, -200} == statuses()

        keys.write_text("[[key]]")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: running.log.count("the API keys stay as they were") == int(workers))
        assert {401, -200} == statuses()
        assert processes == children(running.process.pid)
        assert running.stop() == 0


def workers_of(running: Service) -> list[int]:
    """The processes of the workers."""
    assert running.process is not None
    started = [line for line in running.log.splitlines() if "Started server process" in line]
    return [pid for pid in children(running.process.pid) if any(f"[{pid}]" in line for line in started)]


def has_kept_keys(running: Service, times: int) -> bool:
    return running.log.count("the API keys stay as they were") >= times


def test_workers_that_start_while_the_key_file_cannot_be_used_have_the_keys_as_they_were(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(key_entry("old", ["read"], "", "mw_old"))
    with service("--workers", "2", "--api-keys", str(keys)) as running:
        assert running.process is not None
        keys.write_text(key_entry("new", ["read"], "", "mw_new"))
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: running.log.count("API keys in use: 1") == 2)
        keys.write_text("oops [")
        workers = workers_of(running)
        assert 2 == len(workers)
        for number, worker in enumerate(workers, start=1):
            os.kill(worker, signal.SIGKILL)
            eventually(partial(has_kept_keys, running, number))

        def statuses() -> set[int]:
            presented = [{"X-API-Key": "mw_old"}, {"X-API-Key": "mw_new"}]
            return {
                calls.get(f"{running.url}/v1/streams", headers=headers).status_code * sign
                for _ in range(8)
                for headers, sign in zip(presented, (1, -1), strict=True)
            }

        assert {401, -200} == statuses()
        assert "Traceback" not in running.log
        assert running.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sighup_that_comes_as_soon_as_it_says_where_it_listens_ends_nothing(workers: str) -> None:
    with processes.cold(), short_directory() as directory:
        running = Service(directory, arguments=("--workers", workers))
        running.start(until_live=False)
        assert running.process is not None
        try:
            eventually(lambda: "listens on" in running.log)
            running.process.send_signal(signal.SIGHUP)
            eventually(running.is_up)
        finally:
            assert 0 == running.stop()


_AT_THE_FIRST_IMPORT = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("meanwhile.cli", "typer", "pydantic"):
            print(signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, []))
            print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)
            raise SystemExit

sys.meta_path.insert(0, Finder())
from meanwhile.__main__ import main
main()
"""


@pytest.mark.parametrize(("command", "expected"), [("serve", "True\nTrue\n"), ("send", "False\nFalse\n")])
def test_serve_blocks_sighup_and_lets_sigint_end_it_before_it_imports_anything(command: str, expected: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _AT_THE_FIRST_IMPORT, command], capture_output=True, text=True, timeout=60, check=True
    )
    assert expected == ran.stdout


def blocks(running: Service, number: signal.Signals) -> bool:
    process = running.process
    assert process is not None
    found = re.search(r"^SigBlk:\t(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which signals a process blocks")
def test_a_signal_during_the_imports_of_serve_ends_nothing_or_ends_it_silently() -> None:
    with short_directory() as directory:
        running = Service(directory)
        running.start(until_live=False)
        assert running.process is not None
        eventually(lambda: blocks(running, signal.SIGHUP))
        running.process.send_signal(signal.SIGHUP)
        eventually(running.is_up, seconds=60)
        assert 0 == running.stop()

        running.start(until_live=False)
        eventually(lambda: blocks(running, signal.SIGHUP))
        assert running.stop(signal.SIGINT) in (-signal.SIGINT, 0)
        assert "Traceback" not in running.log


def test_no_secret_is_in_the_log_even_with_an_access_log(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(key_entry("k", ["read", "write"], "", "mw_known"))
    with valkey("--requirepass", "redissecret", "--appendonly", "yes", "--appendfsync", "always") as server:
        options = ("--access-log", "--log-level", "debug", "--api-keys", str(keys))
        with service(*options, MEANWHILE_REDIS_URL=f"unix://:redissecret@{server.socket}") as running:
            basic = httpx.BasicAuth("u", "mw_known")
            headers = {"X-API-Key": "mw_known"}
            path = f"{running.url}/v1/streams/s"
            assert 200 == calls.post(f"{path}/readings", json={"value": 1}, headers=headers).status_code
            assert 200 == calls.get(f"{path}/count", auth=basic).status_code
            assert 401 == calls.get(f"{path}/count?key=mw_known&x-api-key=mw_known").status_code
            assert 401 == calls.get(f"{path}/count", headers={"Authorization": "Bearer mw_wrong"}).status_code
            assert 400 == calls.post(f"{path}/readings", content=b"mw_known", headers=headers).status_code
            server.kill()
            assert 503 == calls.get(f"{path}/count", headers=headers).status_code
            server.start()
            assert running.process is not None
            running.process.send_signal(signal.SIGHUP)
            eventually(lambda: "API keys in use:" in running.log)
            assert running.stop() == 0
            assert '"GET /v1/streams/s/count HTTP/1.1" 401' in running.log
            for secret in ("mw_known", "mw_wrong", "redissecret", base64.b64encode(b"u:mw_known").decode()):
                assert secret not in running.log
