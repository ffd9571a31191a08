"""API keys: what the file may say, which key a request presents, and what the file says to it."""

import asyncio
import base64
import hashlib
import logging
import os
import re
import threading
import tomllib
from pathlib import Path

import pytest

from meanwhile.api.auth import Forbidden, Guard, Unauthorized, check_allowed_prefix
from meanwhile.api.key_file import UNRESTRICTED, BadKeyFile, Keys, key_entry, new_secret, read_keys
from meanwhile.api.request_head import Headers, Pairs

WRITER, READER, OTHER = "mw_writer", "mw_reader", "mw_other"


def bearer(secret: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + secret.encode()


def basic(user: str, password: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def written(directory: Path, *entries: str) -> Path:
    file = directory / "keys.toml"
    file.write_text("\n".join(entries))
    return file


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    keys = (
        key_entry("w", ["write"], "plant/", WRITER),
        key_entry("r", ["read"], "", READER),
        key_entry("o", ["admin"], "", OTHER),
    )
    return Guard(written(tmp_path, *keys))


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
    guard = Guard(written(tmp_path, key_entry("w", ["write"], "", "schlüssel")))
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


def test_with_a_key_it_does_not_matter_where_a_page_comes_from(guard: Guard) -> None:
    assert "plant/" == guard.authorize(Headers([bearer(WRITER), (b"sec-fetch-site", b"cross-site")]), "write").prefix


# The file --------------------------------------------------------------------------------------------------------


def test_what_meanwhile_key_prints_is_an_entry_of_the_file(tmp_path: Path) -> None:
    secret = new_secret()
    text = key_entry('the "gateway"\n', ["read", "write"], "plant-1/", secret)
    assert {
        "name": 'the "gateway"\n',
        "scopes": ["read", "write"],
        "prefix": "plant-1/",
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
    } == tomllib.loads(text)["key"][0]
    assert secret not in text
    assert "plant-1/" == Guard(written(tmp_path, text)).authorize(Headers([bearer(secret)]), "read").prefix


def test_secrets_are_256_random_bits_behind_a_prefix_that_scanners_know() -> None:
    secrets = {new_secret() for _ in range(1_000)}
    assert 1_000 == len(secrets)
    assert all(re.fullmatch(r"mw_[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_a_digest_may_be_written_in_capitals_and_a_name_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, f'[[key]]\nscopes = ["read"]\nsha256 = "{hashlib.sha256(b"x").hexdigest().upper()}"')
    assert "key 1" == getattr(read_keys(file).find(b"x"), "name", None)


SOUND = key_entry("w", ["write"], "", WRITER)
BAD = {
    "no TOML": "[[key",
    "no key": 'title = "x"',
    "a misspelt table": SOUND.replace("[[key]]", "[[keys]]"),
    "a deep one": "key = " + "[" * 100_000,
    "one table": '[key]\nname = "x"',
    "text for keys": 'key = "x"',
    "numbers for keys": "key = [1]",
    "no scopes": '[[key]]\nsha256 = "' + "0" * 64 + '"',
    "empty scopes": SOUND.replace('["write"]', "[]"),
    "an unknown scope": SOUND.replace('["write"]', '["write", "root"]'),
    "text for scopes": SOUND.replace('["write"]', '"write"'),
    "a number for a scope": SOUND.replace('["write"]', "[1]"),
    "no digest": '[[key]]\nscopes = ["read"]',
    "a short digest": SOUND[:-2] + '"',
    "a secret for a digest": f'[[key]]\nscopes = ["read"]\nsha256 = "{new_secret()}"',
    "a number for a digest": '[[key]]\nscopes = ["read"]\nsha256 = 1',
    "a name that is too long": SOUND.replace('"w"', f'"{"w" * 65}"'),
    "a number for a prefix": SOUND + "\nprefix = 1",
    "a misspelt member": SOUND + '\nprefx = "plant/"',
    "the second one": SOUND + "\n[[key]]\nname = 'x'",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_file_that_cannot_be_used_is_refused_without_its_contents(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadKeyFile) as refusal:
        read_keys(written(tmp_path, text))
    assert "mw_" not in str(refusal.value)
    assert "0000" not in str(refusal.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFile, match="No such file"):
        read_keys(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadKeyFile, match="not valid TOML"):
        read_keys(tmp_path / "binary.toml")


def test_producers_belong_to_the_name_of_a_key_or_else_to_its_digest(tmp_path: Path) -> None:
    unnamed = SOUND.replace('name = "w"\n', "")
    new = key_entry("w", ["write"], "", "mw_new")
    guard = Guard(written(tmp_path, SOUND, new, unnamed.replace(SOUND[-65:-1], hashlib.sha256(b"mw_x").hexdigest())))
    owners = [guard.authorize(Headers([bearer(secret)]), "write").owner for secret in (WRITER, "mw_new", "mw_x")]
    assert ["w", "w", hashlib.sha256(b"mw_x").hexdigest()[:16]] == owners
    assert "" == Guard(None).authorize(Headers([]), "write").owner


def test_two_entries_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFile, match="number 2"):
        read_keys(written(tmp_path, SOUND, key_entry("again", ["read"], "", WRITER)))


async def test_reading_again_takes_what_is_new_and_leaves_out_what_is_gone(tmp_path: Path) -> None:
    file = written(tmp_path, SOUND)
    guard = Guard(file)
    written(tmp_path, key_entry("r", ["read"], "", READER))
    await guard.reload()
    assert "" == guard.authorize(Headers([bearer(READER)]), "read").prefix
    with pytest.raises(Unauthorized):
        guard.authorize(Headers([bearer(WRITER)]), "write")


async def test_reading_again_what_cannot_be_used_keeps_the_keys_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(written(tmp_path, SOUND))
    for broken in BAD.values():
        written(tmp_path, broken)
        await guard.reload()
        assert "" == guard.authorize(Headers([bearer(WRITER)]), "write").prefix
    assert {logging.ERROR} == {record.levelno for record in caplog.records}
    assert len(BAD) == caplog.text.count("the API keys stay as they were")


@pytest.mark.parametrize("text", ["", "# all keys are withdrawn\n", "key = []"])
async def test_a_file_without_keys_admits_nobody(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(written(tmp_path, SOUND))
    await Guard(written(tmp_path, text)).reload()
    await guard.reload()
    for one in (guard, Guard(written(tmp_path, text))):
        for headers in ([], [bearer(WRITER)]):
            with pytest.raises(Unauthorized):
                one.authorize(Headers(headers), "write")
    assert "every request that needs a key is refused" in caplog.text


async def test_a_file_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge.toml").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    for name, why in (("fifo", "not a regular file"), (".", "[Dd]irectory"), ("huge.toml", "larger than 4194304")):
        with pytest.raises(BadKeyFile, match=why):
            read_keys(tmp_path / name)


async def test_what_is_read_last_was_in_the_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk holds up neither the loop nor the order."""
    guard = Guard(written(tmp_path, SOUND))
    goes_on = threading.Event()
    asked = []

    def slow(file: Path, copy: Path | None = None) -> Keys:
        asked.append(file)
        keys = read_keys(file)
        if len(asked) == 1:
            goes_on.wait(10)
        return keys

    monkeypatch.setattr("meanwhile.api.auth.read_keys", slow)
    first = asyncio.create_task(guard.reload())
    while not asked:  # noqa: ASYNC110  # It happens in a thread, which tells nobody.
        await asyncio.sleep(0.001)
    written(tmp_path, "")
    second = asyncio.create_task(guard.reload())
    await asyncio.sleep(0.01)
    assert UNRESTRICTED._replace(owner="w") == guard.authorize(Headers([bearer(WRITER)]), "write")
    goes_on.set()
    await asyncio.gather(first, second)
    with pytest.raises(Unauthorized):
        guard.authorize(Headers([bearer(WRITER)]), "write")


async def test_who_watches_is_told_after_each_reading_until_it_leaves(tmp_path: Path) -> None:
    guard = Guard(written(tmp_path, SOUND))
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
