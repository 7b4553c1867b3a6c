"""The chat page in a real Chromium, with a server that follows a script."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.serve.page.scripted_server import ScriptedServer, scripted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
HARMLESS = "Failed to load resource: "
OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. While it runs, this thread has an event loop: other modules could not start their own."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as server:
        yield server


@pytest.fixture
def open_page(chromium: Browser, server: ScriptedServer) -> Iterator[OpenPage]:
    """Opens the page in a browser without any data: `open_page(color_scheme="dark", script="…")`.

    The test fails if a page throws an error, or does something that its content security policy forbids.
    """
    contexts = []
    problems: list[str] = []

    def open_page(script: str = "", url: str = "", **options: Any) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda message: _note(message, problems))
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(url or server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page(viewport={"width": 1200, "height": 800})


def _note(message: Any, problems: list[str]) -> None:
    if message.type in ("error", "warning") and not message.text.startswith(HARMLESS):
        problems.append(message.text)
