"""API keys: which key a request presents, and what it allows."""

import base64
import hashlib
from pathlib import Path

import pytest

from meanwhile.api.auth import Forbidden, Guard, Unauthorized, check_allowed_prefix
from meanwhile.api.key_file import KeyFile, key_entry
from meanwhile.api.request_head import Headers, Pairs
from tests.support.key_files import OTHER, READER, WRITER, written

SOUND = key_entry("w", ["write"], "", WRITER)


def bearer(secret: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + secret.encode()


def basic(user: str, password: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode())


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    keys = (
        key_entry("w", ["write"], "plant/", WRITER),
        key_entry("r", ["read"], "", READER),
        key_entry("o", ["admin"], "", OTHER),
    )
    return Guard(KeyFile(written(tmp_path, *keys)))


# The key that a request presents ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        bearer(WRITER),
        (b"authorization", b"bearer mw_writer"),
        (b"authorization", b"BEARER   mw_writer "),
        (b"authorization", b"Token mw_writer"),
        (b"authorization", b"token mw_writer"),
        (b"x-api-key", b"mw_writer"),
        basic("", WRITER),
        basic("anybody", WRITER),
        (b"authorization", b"basic " + base64.b64encode(b"u:mw_writer")),
    ],
)
def test_a_key_is_presented_in_four_ways(guard: Guard, header: tuple[bytes, bytes]) -> None:
    assert "plant/" == guard.authorize(Headers([(b"host", b"t"), header]), "write").prefix


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"mw_writer")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer mw_write")],
        [(b"authorization", b"Bearer mw_writer2")],
        [(b"authorization", b"Bearer MW_WRITER")],
        [(b"authorization", b"Bearer mw_writer mw_writer")],
        [(b"authorization", b"Bearer \xff")],
        [(b"authorization", b"Digest mw_writer")],
        [(b"authorization", b"Basic mw_writer")],
        [(b"authorization", b"Basic !")],
        [(b"authorization", b"Basic " + base64.b64encode(b"mw_writer"))],
        [basic(WRITER, "")],
        [basic(WRITER, "x")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"Bearer mw_writer")],
        [(b"cookie", b"key=mw_writer")],
        [(b"idempotency-key", b"mw_writer:1")],
        [(b"x-api-key", hashlib.sha256(b"mw_writer").hexdigest().encode())],
    ],
)
@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_anything_else_is_no_key(guard: Guard, headers: Pairs, scope: str) -> None:
    with pytest.raises(Unauthorized):
        guard.authorize(Headers(headers), scope)


@pytest.mark.parametrize(
    "headers",
    [
        [bearer(WRITER), (b"x-api-key", READER.encode())],
        [(b"x-api-key", READER.encode()), bearer(WRITER)],
        [bearer(WRITER), (b"x-api-key", b"wrong")],
        [bearer("wrong"), (b"x-api-key", WRITER.encode())],
        [bearer(WRITER), bearer(READER)],
        [bearer(WRITER), basic("u", "p")],
    ],
)
def test_two_different_keys_are_none_in_whatever_order(guard: Guard, headers: Pairs) -> None:
    for scope in ("read", "write"):
        with pytest.raises(Unauthorized):
            guard.authorize(Headers(headers), scope)


def test_the_same_key_twice_is_one(guard: Guard) -> None:
    assert (
        "plant/"
        == guard.authorize(
            Headers([bearer(WRITER), (b"x-api-key", WRITER.encode()), basic("u", WRITER)]), "write"
        ).prefix
    )


def test_an_empty_header_presents_no_key(guard: Guard) -> None:
    for empty in (b"x-api-key", b""), (b"authorization", b"Bearer "):
        with pytest.raises(Unauthorized):
            guard.authorize(Headers([empty]), "write")
    assert "plant/" == guard.authorize(Headers([(b"x-api-key", b""), bearer(WRITER)]), "write").prefix


def test_credentials_of_another_kind_are_somebody_elses(guard: Guard) -> None:
    assert (
        ""
        == guard.authorize(
            Headers([(b"authorization", b"Negotiate abc"), (b"x-api-key", READER.encode())]), "read"
        ).prefix
    )


@pytest.mark.parametrize(
    ("secret", "allowed"), [(WRITER, "write"), (READER, "read"), (OTHER, "admin")], ids=["write", "read", "admin"]
)
@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_key_allows_its_scopes_and_no_other(guard: Guard, secret: str, allowed: str, scope: str) -> None:
    if scope == allowed:
        guard.authorize(Headers([bearer(secret)]), scope)
        return
    with pytest.raises(Forbidden) as forbidden:
        guard.authorize(Headers([bearer(secret)]), scope)
    assert f"Expected a key with the scope {scope}." == forbidden.value.detail


@pytest.mark.parametrize(
    ("name", "prefix", "reaches"),
    [
        ("plant/a", "plant/", True),
        ("plant/", "plant/", True),
        ("anything", "", True),
        ("plant", "plant/", False),
        ("plants/a", "plant/", False),
        ("Plant/a", "plant/", False),
        ("", "plant/", False),
        ("x/plant/a", "plant/", False),
    ],
)
def test_a_prefix_is_the_start_of_a_name(name: str, prefix: str, reaches: bool) -> None:
    if reaches:
        check_allowed_prefix(name, prefix)
        return
    with pytest.raises(Forbidden):
        check_allowed_prefix(name, prefix)


def test_a_secret_that_is_no_ascii_is_known_by_its_bytes(tmp_path: Path) -> None:
    guard = Guard(KeyFile(written(tmp_path, key_entry("w", ["write"], "", "schlüssel"))))
    assert "" == guard.authorize(Headers([bearer("schlüssel")]), "write").prefix
    assert "" == guard.authorize(Headers([basic("u", "schlüssel")]), "write").prefix


# Without keys ----------------------------------------------------------------------------------------------------

BROWSERS: dict[str, tuple[Pairs, bool]] = {
    "no browser": ([(b"host", b"t:8000")], True),
    "the same site": ([(b"sec-fetch-site", b"same-origin"), (b"origin", b"http://t"), (b"host", b"t")], True),
    "the address bar": ([(b"sec-fetch-site", b"none")], True),
    "another site": ([(b"sec-fetch-site", b"cross-site")], False),
    "a neighbour of the site": ([(b"sec-fetch-site", b"same-site")], False),
    "an unknown word": ([(b"sec-fetch-site", b"")], False),
    "the same origin, plain HTTP": ([(b"host", b"t:8000"), (b"origin", b"http://t:8000")], True),
    "another port, plain HTTP": ([(b"host", b"t:8000"), (b"origin", b"http://t")], False),
    "another host, plain HTTP": ([(b"origin", b"http://evil.example"), (b"host", b"t:8000")], False),
    "an opaque origin": ([(b"origin", b"null"), (b"host", b"t:8000")], False),
}


@pytest.mark.parametrize(("headers", "allowed"), BROWSERS.values(), ids=BROWSERS.keys())
@pytest.mark.parametrize("scope", ["write", "admin"])
def test_without_keys_no_other_site_may_write(headers: Pairs, allowed: bool, scope: str) -> None:
    if allowed:
        assert "" == Guard(None).authorize(Headers(headers), scope).prefix
        return
    with pytest.raises(Forbidden):
        Guard(None).authorize(Headers(headers), scope)


@pytest.mark.parametrize("headers", [headers for headers, _ in BROWSERS.values()], ids=BROWSERS.keys())
def test_without_keys_everybody_may_read(headers: Pairs) -> None:
    assert "" == Guard(None).authorize(Headers(headers), "read").prefix


def test_without_keys_all_producers_have_one_owner() -> None:
    assert "" == Guard(None).authorize(Headers([]), "write").owner


def test_with_a_key_it_does_not_matter_where_a_page_comes_from(guard: Guard) -> None:
    assert "plant/" == guard.authorize(Headers([bearer(WRITER), (b"sec-fetch-site", b"cross-site")]), "write").prefix


# Reloading the file ----------------------------------------------------------------------------------------------


async def test_reading_again_takes_what_is_new_and_leaves_out_what_is_gone(tmp_path: Path) -> None:
    file = written(tmp_path, SOUND)
    guard = Guard(KeyFile(file))
    written(tmp_path, key_entry("r", ["read"], "", READER))
    await guard.reload()
    assert "" == guard.authorize(Headers([bearer(READER)]), "read").prefix
    with pytest.raises(Unauthorized):
        guard.authorize(Headers([bearer(WRITER)]), "write")


@pytest.mark.parametrize("text", ["", "# all keys are withdrawn\n", "key = []"])
async def test_a_file_without_keys_admits_nobody(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(KeyFile(written(tmp_path, SOUND)))
    await Guard(KeyFile(written(tmp_path, text))).reload()
    await guard.reload()
    for one in (guard, Guard(KeyFile(written(tmp_path, text)))):
        for headers in ([], [bearer(WRITER)]):
            with pytest.raises(Unauthorized):
                one.authorize(Headers(headers), "write")
    assert "every request that needs a key is refused" in caplog.text


async def test_who_watches_is_told_after_each_reading_until_it_leaves(tmp_path: Path) -> None:
    guard = Guard(KeyFile(written(tmp_path, SOUND)))
    told = []
    with guard.watch(lambda: told.append(guard.authorize(Headers([bearer(WRITER)]), "write").prefix)):
        written(tmp_path, key_entry("w", ["write"], "plant/", WRITER))
        await guard.reload()
        written(tmp_path, "broken")
        await guard.reload()
    await guard.reload()
    assert ["plant/"] == told


async def test_a_guard_without_a_file_has_nothing_to_read_again() -> None:
    guard = Guard(None)
    await guard.reload()
    assert "" == guard.authorize(Headers([]), "admin").prefix
