"""Java's own HTTP client with its defaults: it asks every server to upgrade to HTTP/2, beside a body."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import calls
from tests.support.servers import service

PROGRAM = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

public class Send {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < arguments.length; i += 3) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[i]))
                .header("Content-Type", arguments[i + 1])
                .POST(HttpRequest.BodyPublishers.ofString(arguments[i + 2]))
                .build();
            System.out.println(client.send(request, BodyHandlers.ofString()).statusCode());
        }
    }
}
"""

REQUESTS = [
    ("/v1/streams/java/one/readings", "application/json", '{"value": 1}', 200, "java/one", 1),
    ("/v1/readings", "application/json", '{"java/batch": {"values": [1, 2]}}', 200, "java/batch", 2),
    ("/v1/readings", "application/x-ndjson", '{"stream": "java/lines", "value": 1}\n' * 3, 200, "java/lines", 3),
    ("/v1/readings", "application/senml+json", '[{"n": "java/senml", "v": 1}]', 200, "java/senml", 1),
    ("/write?db=d", "text/plain", "java f=1 1\njava f=2 2\n", 204, "java/f", 2),
    ("/api/v2/write", "text/plain", "java g=1 1\n", 204, "java/g", 1),
]


def test_what_the_client_is_told_is_recorded(tmp_path: Path) -> None:
    java, compiler = shutil.which("java"), shutil.which("javac")
    if java is None or compiler is None:
        pytest.skip("a JDK is not installed; on Debian: apt install default-jdk-headless")
    (tmp_path / "Send.java").write_text(PROGRAM)
    with service() as running:
        arguments = [part for path, kind, body, *_ in REQUESTS for part in (running.url + path, kind, body)]
        sent = subprocess.run(
            [java, str(tmp_path / "Send.java"), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert [str(status) for *_, status, _, _ in REQUESTS] == sent.stdout.split()
        for *_, stream, readings in REQUESTS:
            found = calls.get(f"{running.url}/v1/streams/{stream}/count")
            assert {"stream": stream, "count": readings} == found.json(), json.dumps(sent.stdout)
