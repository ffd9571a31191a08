"""A chromium that watches its pages: whatever they complain of fails the test."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = shutil.which("chromium")
# What a browser logs of a reply that is an error or does not come; the tests that make these happen expect them.
_EXPECTED = ("Failed to load resource",)
_WATCH_POLICY = "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's, without a screen."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, **context: Any) -> AsyncIterator[Page]:
    """A page at a URL, in a context of its own. Fails if the page logs an error or breaks its policy."""
    complaints: list[str] = []
    session = await browser.new_context(**({"viewport": {"width": 1240, "height": 800}} | context))
    page = await session.new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type in ("error", "warning") else None)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    await page.add_init_script(_WATCH_POLICY)
    await page.goto(url)
    yield page
    await session.close()
    assert [] == [one for one in complaints if not one.startswith(_EXPECTED)]
    assert 1 == len(hosts), f"asked other hosts: {hosts}"


async def is_accessible(page: Page) -> bool:
    """Whether axe-core finds nothing to complain of."""
    results = await Axe().run(page)
    assert 0 == results.violations_count, results.generate_report()
    return True
