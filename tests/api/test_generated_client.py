"""A client that a stranger's tool makes of /openapi.json: generated, installed, and used."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support import calls
from tests.support.servers import Valkey, service

# Media types that the generator does not know. It is told that they are bytes.
UNKNOWN = [
    *("application/senml+cbor", "application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain"),
    *("application/vnd.msgpack", "application/msgpack"),
]
BYTES = "application/octet-stream"

USE = """
import sys
sys.path.insert(0, sys.argv[2])
from meanwhile_client import Client
from meanwhile_client.api.default import delete_stream, list_streams, read_average, read_stream, record_batch
from meanwhile_client.api.default import record_readings
from meanwhile_client.models import ManyReadings, OneReading, Problem, StreamAverage, StreamState

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
for key in ("7:1", "7:1"):
    recorded = record_readings.sync("room/t", client=client, body=OneReading(value=21.4), idempotency_key=key)
assert (1, 21.4, True) == (recorded.count, recorded.average, recorded.duplicate)
record_readings.sync("room/t", client=client, body=ManyReadings(values=[22.1, 22.2]))
average = read_average.sync("room/t", client=client)
assert isinstance(average, StreamAverage) and (3, 21.9) == (average.count, average.average), average
state = read_stream.sync("room/t", client=client)
assert isinstance(state, StreamState) and 22.2 == state.maximum, state
assert ["room/t"] == list_streams.sync(client=client, prefix="room/").streams
assert isinstance(delete_stream.sync("room/t", client=client), StreamState)
gone = read_stream.sync("room/t", client=client)
assert isinstance(gone, Problem) and 404 == gone.status, gone
print("used")
"""


def test_a_generated_client_is_made_installed_and_used(shared_valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=prefix) as running:
        contract = tmp_path / "openapi.json"
        contract.write_text(json.dumps(calls.get(f"{running.url}/openapi.json").json()))
        options = tmp_path / "options.yaml"
        options.write_text(json.dumps({"post_hooks": [], "content_type_overrides": dict.fromkeys(UNKNOWN, BYTES)}))
        generated = subprocess.run(
            [
                *(str(scripts / "openapi-python-client"), "generate", "--fail-on-warning"),
                *("--path", str(contract), "--config", str(options), "--output-path", str(tmp_path / "client")),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert 0 == generated.returncode, generated.stdout + generated.stderr
        used = subprocess.run(
            [sys.executable, "-c", USE, running.url, str(tmp_path / "client")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "used\n" == used.stdout, used.stderr
