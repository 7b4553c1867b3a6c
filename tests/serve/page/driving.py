"""What tests of the chat page do again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

expect.set_options(timeout=60_000)


def box(page: Page) -> Locator:
    """The message box."""
    return page.get_by_role("textbox", name="Message", exact=True)


def button(page: Page | Locator, name: str) -> Locator:
    """The last button of this name: that of the last message."""
    return page.get_by_role("button", name=name).last


def send(page: Page, text: str) -> None:
    """Sends a message; does not wait for the answer."""
    box(page).fill(text)
    box(page).press("Enter")


def chat(page: Page, *texts: str) -> None:
    """Sends messages, each after the answer to the one before."""
    for text in texts:
        send(page, text)
        expect(page.get_by_text(text, exact=True).last).to_be_visible()
        finished(page)


def finished(page: Page) -> None:
    """Waits until no answer is being written."""
    expect(button(page, "Stop")).to_have_count(0)


def shown(page: Page) -> list[str]:
    """The texts of all messages on the screen."""
    return page.locator(".message > .text").all_inner_texts()


def note(page: Page) -> Locator:
    """What is reported below the last message: that it was stopped, an error, a countdown."""
    return page.locator(".note p").last


def notice(page: Page) -> Locator:
    """The short message above the message box."""
    return page.locator("#notice")


def conversations(page: Page) -> Locator:
    """The links of the list."""
    return page.locator("#conversations a")


def exported(page: Page, folder: Path) -> Path:
    """The file with all conversations."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    path = folder / "conversations.json"
    download.value.save_as(path)
    return path


def imported(page: Page, path: Path, content: Any = None) -> None:
    """Imports a file; with a content, after writing it."""
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(path)


def linear(*texts: str) -> dict[str, Sequence[dict[str, str]]]:
    """A conversation in OpenAI's form."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]}
