"""The page without a mouse, without sight, on a phone, in the dark; and what its file may contain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from tests.serve.page.conftest import OpenPage
from tests.serve.page.driving import box, button, chat, finished, note, send, shown
from tests.serve.page.scripted_server import PAGE, Reply, ScriptedServer, chunk, whole
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
RICH = "A **bold** list:\n\n1. one\n2. two\n\n```python\nprint(1)\n```\n\nand " + "a_very_long_word_" * 20
FOCUSED = "document.activeElement.ariaLabel ?? document.activeElement.textContent"


def fill(page: Page, server: ScriptedServer) -> None:
    """A conversation with everything that a conversation may show."""
    calculation = {"expression": "12 * 7", "result": "84", "offset": 0}
    server.replies += [
        Reply([chunk(RICH, calculator=[calculation]), *whole()]),
        Reply(whole("Second")),
        Reply(status=400, error="The prompt is too long."),
    ]
    chat(page, "Show me everything, please")
    button(page, "Regenerate answer").click()
    finished(page)
    button(page, "Previous version").click()
    page.locator(".numbers").last.click()
    chat(page, "and_an_error_" * 20)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_axe_finds_nothing(open_page: OpenPage, server: ScriptedServer, color_scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(color_scheme=color_scheme, viewport={"width": width, "height": 800})

    def check() -> None:
        found: list[dict[str, Any]] = axe.Axe().run(page).response["violations"]
        assert not [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]

    expect(page.get_by_text("Artifact")).to_be_visible()
    check()
    fill(page, server)
    check()
    page.locator(".user").first.get_by_role("button", name="Edit message").click()
    check()
    page.keyboard.press("Escape")
    button(page, "Settings").click()
    page.get_by_label("Max tokens").fill("0")
    check()
    page.keyboard.press("Escape")
    if width == 320:
        button(page, "Conversations").click()
        page.wait_for_timeout(400)  # it slides in
        check()
    else:
        server.token = "s3cret"
        send(page, "Hi")
        expect(page.get_by_label("Bearer token")).to_be_visible()
        check()


def test_a_phone_of_320_pixels_shows_all_without_scrolling_sideways(
    open_page: OpenPage, server: ScriptedServer
) -> None:
    page = open_page(viewport={"width": 320, "height": 568}, has_touch=True, is_mobile=True)
    fill(page, server)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.locator("#scroll").evaluate("scroll => scroll.scrollWidth - scroll.clientWidth") == 0
    assert page.locator("dialog").evaluate_all("dialogs => dialogs.every((each) => !each.open)")
    sizes = page.locator("input, textarea, select").evaluate_all(
        "all => all.map((each) => getComputedStyle(each).fontSize)"
    )
    assert set(sizes) == {"16px"}, "a phone enlarges the page for a smaller field"
    button(page, "Settings").click()
    assert page.locator("#settings").evaluate("each => each.scrollWidth - each.clientWidth") == 0
    button(page, "Done").click()
    button(page, "Conversations").click()
    expect(page.get_by_role("link", name="New conversation")).to_be_focused()
    page.get_by_role("link", name="New conversation").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_everything_works_without_a_mouse(page: Page, server: ScriptedServer) -> None:
    keys = page.keyboard
    expect(box(page)).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    expect(page.get_by_text("You wrote: one two")).to_be_visible()
    finished(page)
    assert shown(page)[0] == "one\ntwo"
    keys.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit message")).to_be_focused()
    keys.press("Escape")
    expect(box(page)).to_be_focused()
    keys.press("ArrowUp")
    keys.type(" three")
    keys.press("Enter")
    expect(page.get_by_text("You wrote: one two three")).to_be_visible()
    finished(page)
    server.replies.append(Reply([chunk("Endless")], unfinished=True))
    keys.press("Shift+Tab")
    tab_to(page, "Regenerate answer", "Shift+Tab")
    keys.press("Enter")
    expect(page.get_by_text("Endless")).to_be_visible()
    keys.press("Escape")
    expect(note(page)).to_have_text("Stopped.")
    expect(box(page)).to_be_focused()
    tab_to(page, "Settings", "Shift+Tab")
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    assert page.evaluate(FOCUSED) == "Settings"
    tab_to(page, "Delete one\ntwo", "Shift+Tab")
    keys.press("Enter")
    expect(page.locator("#conversations a")).to_have_count(0)
    assert page.evaluate(FOCUSED) == "New conversation"


def tab_to(page: Page, name: str, key: str) -> None:
    """Presses a key until the element of this name has the focus, which must be visible."""

    def reached() -> bool:
        page.keyboard.press(key)
        assert page.evaluate("""(() => { const style = getComputedStyle(document.activeElement);
            const box = document.activeElement.getBoundingClientRect();
            return document.activeElement === document.body || document.activeElement.id === "input"
                || style.outlineStyle !== "none" && style.opacity === "1" && box.width > 0; })()""")
        return page.evaluate(FOCUSED) == name

    until(reached, f"the focus on {name}", every_s=0)


def test_enter_of_an_input_method_sends_nothing(page: Page, server: ScriptedServer) -> None:
    box(page).fill("にほん")
    composing = "input => input.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, %s}))"
    box(page).evaluate(composing % "isComposing: true")
    box(page).evaluate(composing % "keyCode: 229")
    expect(box(page)).to_have_value("にほん")
    box(page).press("Enter")
    expect(page.get_by_text("You wrote: にほん")).to_be_visible()
    assert len(server.requests) == 1


def test_streamed_text_is_outside_live_regions_and_the_status_is_one(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply([chunk("Some text")], unfinished=True))
    send(page, "Hi")
    expect(page.get_by_text("Some text")).to_be_visible()
    assert (
        page.locator(".answer").evaluate("each => each.closest('[aria-live], [role=log], [role=status], output')")
        is None
    )
    expect(page.get_by_role("status")).to_have_text("Waiting for the answer.")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    chat(page, "Hi")
    expect(page.get_by_role("status")).to_have_text("Answer complete, 2 tokens.")


@pytest.mark.parametrize("reduced_motion", ["reduce", "no-preference"])
def test_nothing_moves_where_motion_is_reduced(
    open_page: OpenPage, server: ScriptedServer, reduced_motion: str
) -> None:
    page = open_page(reduced_motion=reduced_motion)
    server.replies.append(Reply([chunk("Some text")], unfinished=True))
    send(page, "Hi")
    expect(page.get_by_text("Some text")).to_be_visible()
    moving = page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length")
    assert bool(moving) == (reduced_motion == "no-preference")


def test_colours_follow_the_system_or_the_setting(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 22, 26)"
    button(page, "Settings").click()
    page.get_by_label("Colours").select_option("Light")
    page.reload()
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_the_file_loads_nothing_and_never_parses_text_as_html() -> None:
    text = PAGE.read_text()
    assert set(re.findall(r"https?://[^\s'\"<>)]+", text)) <= {"http://www.w3.org/2000/svg", "https://"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    assert not re.search(r"<[^>]+\s(on[a-z]+|style)=", text.partition("<script>")[0])
    assert (text.count("<script"), text.count("<style")) == (1, 1)
    assert len(text.encode()) < 100_000
