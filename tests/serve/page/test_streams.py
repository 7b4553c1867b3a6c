"""What the page makes of a stream: bytes cut anywhere, hostile text, errors, a busy server, a token, full storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from tests.serve.page.conftest import OpenPage
from tests.serve.page.driving import box, button, chat, conversations, imported, linear, note, notice, send, shown
from tests.serve.page.scripted_server import DONE, Reply, ScriptedServer, chunk, event, usage, whole
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
HOSTILE = """<img src=x onerror="document.title='caught'"><script>document.title='caught'</script>

**<b onmouseover=alert(1)>bold</b>** [link](javascript:alert(1))

```html
<svg onload="document.title='caught'">
```"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 7])
def test_reads_may_end_anywhere(page: Page, server: ScriptedServer, line_end: str, size: int) -> None:
    """In a line, between CR and LF, in a character; U+2028 and U+0085 are no line ends."""
    text = "a\u2028b\u0085 Řeka 🦆"
    data = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)
    lines = [": a comment", "event: message", f"data: {data}", "", "data:[DONE]", "", ""]
    stream = line_end.join(lines).encode()
    server.replies.append(Reply([stream[start : start + size] for start in range(0, len(stream), size)]))
    chat(page, "Hi")
    assert page.locator(".answer p").evaluate("p => p.textContent") == text


def test_calculations_stand_where_they_were_made(page: Page, server: ScriptedServer) -> None:
    """Offsets count code points of the whole answer, also after the first chunk."""
    first = {"expression": "12 * 7", "result": "84", "offset": 6}
    second = {"expression": "84 / 0", "result": None, "offset": 16}
    reads = [chunk("🦆 = "), chunk("(\ufffc84). Then ", calculator=[first]), chunk("no", calculator=[second]), DONE]
    server.replies.append(Reply(reads))
    chat(page, "How many?")
    assert page.locator(".answer p").evaluate("p => p.textContent") == "🦆 = (\ufffc12 * 7 = 8484). Then 84 / 0no"
    assert page.locator(".calculation").all_inner_texts() == ["12 * 7 = 84", "84 / 0"]
    chat(page, "Thanks")
    assert server.requests[1]["messages"][1]["content"][:3] == [
        {"type": "text", "text": "🦆 = (\ufffc"},
        {"type": "python", "text": "12 * 7"},
        {"type": "python_output", "text": "84"},
    ]


def test_an_answers_markup_is_shown(page: Page, server: ScriptedServer) -> None:
    text = "One **bold** `code`\nline\n\n- a\n- b\n\n3. c\n4. d\n\n~~~\n**not bold**\n"
    server.replies.append(Reply(whole(*text)))
    chat(page, "Hi")
    html = page.locator(".answer > .text").evaluate("text => [...text.children].map((each) => each.localName).join()")
    assert html == "p,ul,ol,div"
    assert page.locator(".answer strong").all_inner_texts() == ["bold"]
    assert page.locator(".answer li").all_inner_texts() == ["a", "b", "c", "d"]
    assert page.locator(".answer ol").get_attribute("start") == "3"
    assert page.locator("pre").inner_text() == "**not bold**"


def test_hostile_text_is_only_text(page: Page, server: ScriptedServer, tmp_path: Path) -> None:
    """In an answer, in a message, in a name, in an imported file."""
    server.replies.append(Reply(whole(HOSTILE)))
    chat(page, "<img src=x onerror=alert(1)>")
    imported(page, tmp_path / "bad.json", {**linear(HOSTILE, HOSTILE), "title": HOSTILE, "id": "x", "extra": HOSTILE})
    expect(page.get_by_text("onmouseover").first).to_be_visible()
    for link in conversations(page).all():
        link.click()
        assert page.locator("#messages").locator("img, script, svg[onload], b[onmouseover], a").count() == 0
        assert "caught" not in page.title() or "onerror" in page.title()
        assert "<img src=x" in shown(page)[0]


def test_hostile_stored_data_does_not_break_the_page(open_page: OpenPage) -> None:
    stored = {
        "conversation.a": "{",
        "conversation.b": json.dumps({"messages": [{"role": "user", "content": 7}]}),
        "settings": json.dumps({"temperature": "<b>", "top_k": -1, "theme": [1], "model": {}}),
    }
    keys = {f"nanochat.{name}": text for name, text in stored.items()}
    page = open_page(f"if (location.protocol === 'http:') Object.assign(localStorage, {json.dumps(keys)});")
    chat(page, "Hi")
    assert shown(page) == ["Hi", "You wrote: Hi"]


def test_an_error_is_shown_in_place_and_retried(page: Page, server: ScriptedServer) -> None:
    server.replies += [Reply(status=400, error="The prompt is too long."), Reply(status=500)]
    send(page, "A long question")
    expect(note(page)).to_have_text("The prompt is too long.")
    button(page, "Retry").click()
    expect(note(page)).to_have_text("The server answered with status 500.")
    button(page, "Retry").click()
    expect(page.get_by_text("You wrote: A long question")).to_be_visible()
    assert shown(page) == ["A long question", "You wrote: A long question"]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (event({"error": {"message": "The engine failed.", "type": "server_error"}}), "The engine failed."),
        (b"", "The connection ended before the answer was complete."),
        (b"data: {no json}\n\n", "The answer cannot be read."),
    ],
)
def test_an_answer_that_fails_halfway_keeps_its_text(
    page: Page, server: ScriptedServer, end: bytes, message: str
) -> None:
    server.replies.append(Reply([chunk("The first half"), end]))
    send(page, "Hi")
    expect(note(page)).to_have_text(message)
    assert shown(page) == ["Hi", "The first half"]
    button(page, "Retry").click()
    expect(page.get_by_text("2/2")).to_be_visible()


def test_a_server_that_is_not_there_loses_no_text(page: Page, server: ScriptedServer) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    send(page, "A long text")
    expect(note(page)).to_have_text("The server cannot be reached.")
    page.reload()
    assert shown(page)[0] == "A long text"
    page.unroute("**/v1/chat/completions")
    button(page, "Retry").click()
    expect(page.get_by_text("You wrote: A long text")).to_be_visible()


def test_a_busy_server_is_tried_again_when_it_wants(page: Page, server: ScriptedServer) -> None:
    server.replies += [Reply(status=429, headers={"Retry-After": "2"}, error="The server is busy.")]
    send(page, "Hi")
    expect(note(page)).to_have_text("The server is busy. Next try in 2 s.")
    expect(note(page)).to_have_text("The server is busy. Next try in 1 s.")
    expect(page.get_by_text("You wrote: Hi")).to_be_visible()
    assert len(server.requests) == 2


def test_waiting_for_a_busy_server_is_cut_short_or_stopped(page: Page, server: ScriptedServer) -> None:
    busy = Reply(status=503, headers={"Retry-After": "500"}, error="The model is being loaded.")
    server.replies += [busy, busy]
    send(page, "Hi")
    expect(note(page)).to_have_text("The model is being loaded. Next try in 500 s.")
    button(page, "Try now").click()
    until(lambda: len(server.requests) == 2, "the second try")
    expect(note(page)).to_have_text("The model is being loaded. Next try in 500 s.")
    button(page, "Stop").click()
    expect(note(page)).to_have_text("Stopped before the first token.")
    button(page, "Retry").click()
    expect(page.get_by_text("You wrote: Hi")).to_be_visible()


def test_a_token_is_requested_and_forgotten_with_the_tab(open_page: OpenPage, server: ScriptedServer) -> None:
    server.token = "s3cret"
    page = open_page()
    page.get_by_label("Bearer token").fill("wrong")
    page.get_by_role("button", name="Use this token").click()
    expect(page.get_by_text("The server refused the last one.")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(notice(page)).to_contain_text("The token is missing or wrong.")
    send(page, "Hi")
    page.get_by_label("Bearer token").fill("s3cret")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You wrote: Hi")).to_be_visible()
    page.reload()
    expect(page.locator("#model-name")).to_have_text("chat/latest")
    assert "s3cret" not in page.evaluate("JSON.stringify(localStorage)")
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.get_by_role("heading", name="This server needs a token")).to_be_visible()


def test_a_late_refusal_of_an_older_request_is_not_one_of_the_new_token(
    open_page: OpenPage, server: ScriptedServer
) -> None:
    server.token = "s3cret"
    server.models_gate.clear()
    page = open_page()
    send(page, "Hi")
    page.get_by_label("Bearer token").fill("s3cret")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You wrote: Hi")).to_be_visible()
    server.models_gate.set()
    expect(page.locator("#model-name")).to_have_text("chat/latest")
    expect(page.get_by_label("Bearer token")).to_be_hidden()


def test_a_refused_token_is_an_error_in_place(page: Page, server: ScriptedServer) -> None:
    expect(page.locator("#model-name")).to_have_text("chat/latest")  # else that request may be refused, too
    server.token = "s3cret"
    send(page, "Hi")
    expect(page.get_by_label("Bearer token")).to_be_visible()  # before that, Escape stops the request
    page.keyboard.press("Escape")
    expect(note(page)).to_have_text("The token is missing or wrong.")
    assert shown(page)[0] == "Hi"


def test_the_page_works_without_storage(open_page: OpenPage) -> None:
    denied = "{get() { throw new DOMException('denied', 'SecurityError'); }}"
    page = open_page(
        f"for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, {denied});"
    )
    expect(page.get_by_text("This browser keeps no data for this page")).to_be_visible()
    chat(page, "Hi", "And?")
    assert shown(page) == ["Hi", "You wrote: Hi", "And?", "You wrote: And?"]
    assert conversations(page).count() == 1


def test_full_storage_is_reported_and_the_chat_goes_on(open_page: OpenPage) -> None:
    page = open_page(
        """const set = Storage.prototype.setItem;
        Storage.prototype.setItem = function (key, value) {
          if (key.startsWith("nanochat.conversation")) throw new DOMException("full", "QuotaExceededError");
          set.call(this, key, value);
        };"""
    )
    chat(page, "Hi")
    expect(notice(page)).to_contain_text("The browser's storage is full.")
    chat(page, "And?")
    assert shown(page)[-1] == "You wrote: And?"


def test_usage_of_a_stream_without_text_is_shown(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply([chunk(finish="stop"), usage(9, 0), DONE]))
    send(page, "Hi")
    expect(page.locator(".numbers")).to_have_text("9 / 2,048 tokens")
    expect(box(page)).to_be_focused()
