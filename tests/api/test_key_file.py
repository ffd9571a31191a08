"""The key file: what it may contain, and what stays in use when it is broken."""

import asyncio
import hashlib
import logging
import os
import re
import threading
import tomllib
from pathlib import Path

import pytest

from meanwhile.api.key_file import BadKeyFile, Grant, KeyFile, Keys, key_entry, new_secret, read_keys
from tests.support.key_files import WRITER, written


def grant(keys: Keys, secret: str) -> Grant | None:
    """What a key allows; None if it is not one of ``keys``."""
    found = keys.find(secret.encode())
    return None if found is None else found.grant


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
    assert Grant("plant-1/", 'the "gateway"\n') == grant(read_keys(written(tmp_path, text)), secret)


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
    other = unnamed.replace(SOUND[-65:-1], hashlib.sha256(b"mw_x").hexdigest())
    keys = read_keys(written(tmp_path, SOUND, new, other))
    expected = [Grant("", owner) for owner in ("w", "w", hashlib.sha256(b"mw_x").hexdigest()[:16])]
    assert expected == [grant(keys, secret) for secret in (WRITER, "mw_new", "mw_x")]


def test_two_entries_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFile, match="number 2"):
        read_keys(written(tmp_path, SOUND, key_entry("again", ["read"], "", WRITER)))


async def test_reading_again_what_cannot_be_used_keeps_the_keys_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeyFile(written(tmp_path, SOUND))
    for broken in BAD.values():
        written(tmp_path, broken)
        assert not await file.reload()
        assert Grant("", "w") == grant(file.keys, WRITER)
    assert {logging.ERROR} == {record.levelno for record in caplog.records}
    assert len(BAD) == caplog.text.count("the API keys stay as they were")


async def test_a_file_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge.toml").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    for name, why in (("fifo", "not a regular file"), (".", "[Dd]irectory"), ("huge.toml", "larger than 4194304")):
        with pytest.raises(BadKeyFile, match=why):
            read_keys(tmp_path / name)


async def test_what_is_read_last_was_in_the_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk holds up neither the loop nor the order."""
    file = KeyFile(written(tmp_path, SOUND))
    goes_on = threading.Event()
    asked = []

    def slow(path: Path, copy: Path | None = None) -> Keys:
        asked.append(path)
        keys = read_keys(path)
        if len(asked) == 1:
            goes_on.wait(10)
        return keys

    monkeypatch.setattr("meanwhile.api.key_file.read_keys", slow)
    first = asyncio.create_task(file.reload())
    while not asked:  # noqa: ASYNC110  # It happens in a thread, which tells nobody.
        await asyncio.sleep(0.001)
    written(tmp_path, "")
    second = asyncio.create_task(file.reload())
    await asyncio.sleep(0.01)
    assert Grant("", "w") == grant(file.keys, WRITER)
    goes_on.set()
    assert all(await asyncio.gather(first, second))
    assert grant(file.keys, WRITER) is None


def test_without_a_file_that_can_be_used_the_last_one_that_could_be_counts(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    path = written(tmp_path, "broken")
    assert 0 == len(KeyFile(path, copy).keys)
    with pytest.raises(BadKeyFile):
        KeyFile(path)
    KeyFile(written(tmp_path, SOUND), copy)
    written(tmp_path, "broken")
    assert Grant("", "w") == grant(KeyFile(path, copy).keys, WRITER)
