"""What a person sees and does, in a real browser."""

import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from redis import Redis

from meanwhile.api.key_file import key_entry, new_secret
from tests.support.browser import CHROMIUM, chromium, is_accessible, opened
from tests.support.event_stream import delete, post, post_batch
from tests.support.paths import VERSION_1
from tests.support.running_service import guarded
from tests.support.servers import Service, Valkey, service

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def shared(shared_valkey: Valkey) -> Iterator[Service]:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as started:
        yield started


@pytest.fixture
def url(shared: Service, shared_valkey: Valkey) -> str:
    """A service without streams."""
    with Redis(unix_socket_path=str(shared_valkey.socket)) as redis:
        keys = list(redis.scan_iter(f"{shared.environment['MEANWHILE_PREFIX']}:*", 10_000))
        if keys:
            redis.delete(*keys)
    return shared.url


def row(page: Page, name: str) -> Any:
    return page.locator(f'tr[data-name="{name}"]')


async def names(page: Page) -> list[str]:
    found: list[str] = await page.locator("tr.row").evaluate_all("rows => rows.map((row) => row.dataset.name)")
    return found


async def test_an_empty_start_helps_and_the_first_reading_shows_up(browser: Browser, url: str) -> None:
    async with opened(browser, url) as page:
        await expect(page.get_by_role("heading", name="No readings yet")).to_be_visible()
        assert await page.locator("#empty-curl").inner_text() == (
            f"curl {url}/v1/streams/kitchen/temperature/readings \\\n"
            "  -H 'Content-Type: application/json' \\\n  -d '{\"value\":21.4}'"
        )
        assert f"meanwhile demo --url {url}" == await page.locator("#empty-demo").inner_text()
        await expect(page.locator("#streams")).to_be_hidden()
        assert await is_accessible(page)
        post(url, "hall/lux", 120.5)
        await expect(row(page, "hall/lux").locator("td.average")).to_have_text("120.50")
        await expect(page.locator("#empty")).to_be_hidden()


async def test_the_first_reading_can_be_sent_from_the_page(browser: Browser, url: str) -> None:
    async with opened(browser, url) as page:
        await page.get_by_role("button", name="Send reading").click()
        await expect(row(page, "kitchen/temperature").locator("td.average")).to_have_text("21.400")


async def test_the_table_is_live_sorts_and_searches(browser: Browser, url: str) -> None:
    for name, value in {"b/two": 2.0, "a/three": 3.0, "a/one": 1.0}.items():
        post(url, name, value)
    async with opened(browser, url) as page:
        await expect(page.locator("tr.row")).to_have_count(3)
        await expect(page.locator("#state")).to_have_text("Live")
        assert ["a/one", "a/three", "b/two"] == await names(page)
        post(url, "a/one", 8.0)
        await expect(row(page, "a/one").locator("td.average")).to_have_text("4.500")
        await expect(row(page, "a/one").locator("td.count")).to_have_text("2")
        await expect(row(page, "a/one").locator("td.latest .now")).to_have_text("8.000")
        await page.get_by_role("button", name="Latest").click()
        assert ["b/two", "a/three", "a/one"] == await names(page)
        await page.get_by_role("button", name="Average").click()
        assert ["b/two", "a/three", "a/one"] == await names(page)
        await page.get_by_role("button", name="Average").click()
        assert ["a/one", "a/three", "b/two"] == await names(page)
        await expect(page.get_by_role("columnheader", name="Average")).to_have_attribute("aria-sort", "descending")
        await page.get_by_label("Streams whose names start with").fill("a/")
        assert ["a/one", "a/three"] == await names(page)
        await page.get_by_label("Streams whose names start with").fill("zzz")
        await expect(page.locator("#none")).to_be_visible()
        await page.get_by_label("Streams whose names start with").fill("")
        delete(url, "b/two")
        await expect(row(page, "b/two")).to_have_count(0)
        assert await is_accessible(page)


async def test_a_stream_has_a_view_of_its_own(browser: Browser, url: str) -> None:
    post(url, "room/t", 21.4, 22.1)
    async with opened(browser, f"{url}/#/room/t") as page:
        await expect(page.get_by_role("heading", name="room/t")).to_be_visible()
        await expect(page.locator("#big")).to_have_text("21.75")
        facts = page.locator("#facts")
        await expect(facts).to_contain_text("21.400")
        await expect(facts.locator("div").first).to_have_text(re.compile(r"^Latest, \d s ago22\.100$"))
        await expect(facts).to_contain_text(re.compile(r"\d+ bytes"))
        assert f"curl {url}/v1/streams/room/t/average" in await page.locator("#curl-read").inner_text()
        await page.locator("#by-hand").get_by_label("Value").fill("30")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.locator("#by-hand .result")).to_have_text("Recorded. The stream now has 3 readings.")
        await expect(page.locator("#big")).to_have_text("24.5")
        await expect(facts.locator("div").first).to_have_text(re.compile(r"^Latest, \d s ago30\.000$"))
        await expect(page.locator("#chart canvas")).to_be_visible()
        painted = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].some((x) => x)"
        assert await page.locator("#chart canvas").evaluate(painted)
        for wrong in ("21,4", '"x"', "[1, 2]"):
            await page.locator("#by-hand").get_by_label("Value").fill(wrong)
            await page.get_by_role("button", name="Send", exact=True).click()
            await expect(page.locator("#by-hand .result.bad")).to_be_visible()
            await page.locator("#by-hand .result").evaluate("node => node.className = 'result'")
        assert await is_accessible(page)
        delete(url, "room/t")
        await expect(page.locator("#gone")).to_contain_text("deleted")
        await page.keyboard.press("Escape")
        await expect(page.locator("#empty")).to_be_visible()


async def test_vectors_and_objects_are_shown_and_names_from_strangers_stay_text(browser: Browser, url: str) -> None:
    hostile = "<img src=x onerror=alert(1)>'"
    post(url, "v/vector", [1.0, 2.0, 3.0], [3.0, 4.0, 5.0])
    post(url, "v/object", {hostile: 1.5, "key": [0.25, 0.5]})
    async with opened(browser, url) as page:
        await expect(row(page, "v/vector").locator("td.average")).to_have_text("[2.00, 3.00, 4.00]")
        await expect(row(page, "v/vector").locator("td.latest .now")).to_have_text("[3.00, 4.00, 5.00]")
        await expect(row(page, "v/object").locator("td.average")).to_contain_text(f"{hostile} 1.50")
        await expect(row(page, "v/object").locator("td.latest .now")).to_contain_text(f"{hostile} 1.50")
        await row(page, "v/object").locator("a").click()
        await expect(page.locator("#parts tr")).to_have_count(3)
        await expect(page.locator("#parts")).to_contain_text(hostile)
        await page.get_by_role("combobox", name="Component").select_option("key[1]")
        await expect(page.locator("#big")).to_have_text("0.5")
        assert "'\\''" in await page.locator("#curl-post").inner_text()
        assert 0 == await page.locator("main img").count()
        assert await is_accessible(page)


async def test_a_page_that_needs_a_key_asks_for_it(browser: Browser, shared_valkey: Valkey, tmp_path: Path) -> None:
    secret = new_secret()
    with guarded(shared_valkey, key_entry("page", ["read", "write"], "in/", secret), tmp_path / "keys.toml") as running:
        post(running.url, "in/a", 1.0, headers={"X-API-Key": secret})
        async with opened(browser, running.url) as page:
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert await is_accessible(page)
            await page.get_by_label("Key", exact=True).fill("mw_wrong")
            await page.keyboard.press("Enter")
            await expect(page.locator("#key-reason")).to_have_text("The key is not valid.")
            await page.get_by_label("Key", exact=True).fill(secret)
            await page.keyboard.press("Enter")
            await expect(row(page, "in/a")).to_be_visible()
            assert [0, 1] == await page.evaluate("[localStorage.length, sessionStorage.length]")
            await page.reload()
            await expect(row(page, "in/a")).to_be_visible()
            await page.goto(f"{running.url}/docs")
            await expect(page.locator("#record_readings")).to_be_visible()
            await page.get_by_role("button", name="Forget key").click()
            await expect(page.get_by_role("dialog")).to_be_visible()


async def test_the_page_comes_back_when_the_service_does(browser: Browser, shared_valkey: Valkey) -> None:
    with service(MEANWHILE_REDIS_URL=shared_valkey.url, MEANWHILE_PREFIX=f"test-{uuid.uuid4().hex}") as running:
        post(running.url, "a", 1.0)
        post(running.url, "b", 1.0)
        async with opened(browser, running.url) as page:
            await expect(row(page, "a")).to_be_visible()
            running.stop()
            await expect(page.locator("#state")).to_have_attribute("data-state", "away")
            await expect(page.locator("#state")).to_contain_text("Not connected")
            running.start(running.port)
            delete(running.url, "b")
            post(running.url, "a", 5.0)
            await expect(page.locator("#state")).to_have_text("Live")
            await expect(row(page, "a").locator("td.average")).to_have_text("3.000")
            await expect(row(page, "b")).to_have_count(0)


async def test_two_thousand_streams_are_no_more_than_a_screenful(browser: Browser, url: str) -> None:
    post_batch(url, {f"many/{n:04}": {"value": n} for n in range(2_000)})
    async with opened(browser, url) as page:
        await expect(page.locator("#totals")).to_contain_text("2,000 streams")
        await expect(page.locator("#streams")).to_have_attribute("aria-rowcount", "2001")
        assert await page.locator("tr.row").count() < 80
        await row(page, "many/0000").locator("a").focus()
        await page.keyboard.press("End")
        await expect(row(page, "many/1999").locator("a")).to_be_focused()
        await expect(row(page, "many/1999")).to_be_in_viewport()
        await expect(row(page, "many/1999")).to_have_attribute("aria-rowindex", "2001")
        assert await page.locator("tr.row").count() < 80
        await page.get_by_role("button", name="Average").click()
        await expect(row(page, "many/0000").or_(row(page, "many/1999")).first).to_be_attached()
        assert await page.locator("tr.row").count() < 80
        assert await is_accessible(page)


async def test_pause_holds_what_is_shown_until_resumed(browser: Browser, url: str) -> None:
    post(url, "a", 1.0)
    async with opened(browser, url) as page:
        count = row(page, "a").locator("td.count")
        await expect(count).to_have_text("1")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("#state")).to_have_text("Paused")
        post(url, "a", 2.0)
        await page.wait_for_timeout(1_500)  # Nothing happens, which cannot be waited for.
        await expect(count).to_have_text("1")
        await page.get_by_role("button", name="Resume").click()
        await expect(count).to_have_text("2")
        await expect(page.locator("#state")).to_have_text("Live")


async def test_everything_can_be_reached_by_keyboard_alone(browser: Browser, url: str) -> None:
    post(url, "a/one", 1.0)
    post(url, "a/two", 2.0)
    post(url, "b/three", 3.0)
    async with opened(browser, url) as page:
        await expect(page.locator("tr.row")).to_have_count(3)
        await page.keyboard.press("/")
        await page.keyboard.type("a/")
        await expect(page.locator("tr.row")).to_have_count(2)
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowDown")
        await expect(row(page, "a/two").locator("a")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="a/two")).to_be_focused()
        await expect(page.locator("#big")).to_have_text("2")
        for _ in range(12):
            await page.keyboard.press("Tab")
            if await page.locator("#by-hand").get_by_label("Value").evaluate("node => node === document.activeElement"):
                break
        await page.keyboard.type("4")
        await page.keyboard.press("Enter")
        await expect(page.locator("#by-hand .result")).to_contain_text("Recorded")
        await page.keyboard.press("Shift+Tab")
        await page.get_by_role("link", name="All streams").focus()
        await page.keyboard.press("Enter")
        await expect(row(page, "a/two").locator("a")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_has_room_for_it(browser: Browser, url: str, scheme: str) -> None:
    post(url, "greenhouse/section-4/soil/moisture", 0.41, 0.42)
    post(url, "v/vector", [1.0] * 100)
    post_batch(url, {"quiet": {"value": -1.234e-30, "time": time.time() - 86_400}})
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    fits = "document.documentElement.scrollWidth <= innerWidth"
    async with opened(browser, url, **phone) as page:
        await expect(page.locator("tr.row")).to_have_count(3)
        assert await page.evaluate(fits)
        latest = row(page, "greenhouse/section-4/soil/moisture").locator("td.latest")
        assert re.fullmatch(r"0\.4200\s+\d s", await latest.inner_text())
        assert re.fullmatch(r"-1\.234e-30\s+quiet 1 d", await row(page, "quiet").locator("td.latest").inner_text())
        is_cut = "nodes => nodes.some((node) => node.scrollWidth > node.clientWidth)"
        assert not await page.locator("tr[data-name=quiet] .now, tr[data-name=quiet] td").evaluate_all(is_cut)
        ground = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
        assert await is_accessible(page)
        await row(page, "v/vector").locator("a").click()
        await expect(page.locator("#parts tr")).to_have_count(100)
        assert await page.evaluate(fits)
        assert await is_accessible(page)


async def test_a_latest_value_that_is_not_known_is_a_dash_until_the_next_reading(
    browser: Browser, shared: Service, shared_valkey: Valkey, url: str
) -> None:
    with Redis(unix_socket_path=str(shared_valkey.socket)) as redis:
        for name in ("number", "array", "object"):
            key = f"{shared.environment['MEANWHILE_PREFIX']}:stream:old/{name}"
            redis.set(key, (VERSION_1 / f"{name}.msgpack").read_bytes())
    async with opened(browser, url) as page:
        for name in ("number", "array", "object"):
            await expect(row(page, f"old/{name}").locator("td.latest .now")).to_have_text("\u2013")
        await row(page, "old/object").locator("a").click()
        await expect(page.locator("#parts tr").first.locator("td").nth(2)).to_have_text("\u2013")
        await page.get_by_role("link", name="All streams").click()
        post(url, "old/number", 5.0)
        await expect(row(page, "old/number").locator("td.latest .now")).to_have_text("5.000")


async def test_silence_is_made_visible(browser: Browser, url: str) -> None:
    post_batch(url, {"quiet": {"value": 1, "time": time.time() - 86_400}, "talks": {"values": [1, 2, 3]}})
    async with opened(browser, url) as page:
        await expect(row(page, "quiet").locator(".age")).to_have_text("quiet 1 d")
        await expect(row(page, "talks")).not_to_have_class(re.compile("stale"))
        await expect(page.locator("#totals")).to_contain_text("1 quiet")


async def test_the_document_shows_every_operation_and_model(browser: Browser, url: str) -> None:
    async with opened(browser, f"{url}/docs") as page:
        contract = await page.evaluate("fetch('openapi.json').then((reply) => reply.json())")
        for operations in contract["paths"].values():
            for operation in operations.values():
                section = page.locator(f"#{operation['operationId']}")
                await expect(section).to_be_attached()
                assert len(operation["responses"]) == await section.locator("details").count()
        for name in contract["components"]["schemas"]:
            await expect(page.locator(f"#model-{name}")).to_be_attached()
        assert await is_accessible(page)
