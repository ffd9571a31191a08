"""The files of the page: what is served, how, and what is not."""

from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path

import httpx
import pytest

from meanwhile.api.key_file import key_entry, new_secret
from meanwhile.api.routes.page import routes

Api = Callable[..., Awaitable[httpx.AsyncClient]]

FILES = sorted(route.path for route in routes())


def test_every_file_of_the_page_has_a_route() -> None:
    web = Path(str(resources.files("meanwhile").joinpath("web")))
    kinds = {".html", ".css", ".js", ".svg"}
    assert len([path for path in web.rglob("*") if path.suffix in kinds]) == len(FILES)
    assert {"/", "/docs", "/web/main.js", "/web/uplot/uPlot.iife.min.js"} <= set(FILES)
    assert (web / "uplot" / "LICENSE").read_text().startswith("The MIT License")


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_under_a_strict_policy(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path)
    assert 200 == reply.status_code
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert "'none'" == policy["default-src"]
    assert {"'self'", "'none'"} == set(policy.values())
    assert "nosniff" == reply.headers["x-content-type-options"]
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    name = {"/": "index.html", "/docs": "docs.html"}.get(path, path)
    assert reply.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
    for tag in (reply.headers["etag"], "W/" + reply.headers["etag"], '"other", ' + reply.headers["etag"], "*"):
        known = await client.get(path, headers={"If-None-Match": tag})
        assert (304, b"") == (known.status_code, known.content)
    assert 200 == (await client.get(path, headers={"If-None-Match": '"other"'})).status_code
    assert 405 == (await client.post(path)).status_code
    head = await client.head(path)
    assert (200, b"", reply.headers["etag"]) == (head.status_code, head.content, head.headers["etag"])


@pytest.mark.parametrize("path", FILES)
async def test_no_file_names_another_host_or_has_anything_inline(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    for known in ("http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot", "http://127.0.0.1"):
        text = text.replace(known, "")
    assert "http://" not in text
    assert "https://" not in text
    if path in ("/", "/docs"):
        for inline in ("style=", "<style", "onclick", "onload", "<script>", "javascript:"):
            assert inline not in text
    assert "innerHTML" not in text


@pytest.mark.parametrize(
    "path",
    ["/web", "/web/", "/web/index.html", "/web/../app.py", "/web/%2e%2e/app.py", "/web/uplot/LICENSE", "/web/x.js"],
)
async def test_nothing_else_is_there(client: httpx.AsyncClient, path: str) -> None:
    assert 404 == (await client.get(path)).status_code


async def test_the_files_need_no_key_and_the_data_does(api: Api, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(key_entry("r", ["read"], "", new_secret()))
    guarded = await api(api_keys=keys)
    for path in FILES:
        assert 200 == (await guarded.get(path)).status_code
    for path in ("/v1/events", "/v1/streams", "/openapi.json"):
        assert 401 == (await guarded.get(path)).status_code
