"""What a person does on the chat page: write, stop, edit, regenerate, switch branches, keep and move conversations."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from tests.serve.page.conftest import OpenPage
from tests.serve.page.driving import (
    box,
    button,
    chat,
    conversations,
    exported,
    finished,
    imported,
    linear,
    note,
    notice,
    send,
    shown,
)
from tests.serve.page.scripted_server import MODEL, Reply, ScriptedServer, chunk, whole
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_an_answer_is_shown_while_it_arrives_and_then_its_numbers(page: Page, server: ScriptedServer) -> None:
    server.replies += [Reply([chunk("Half of"), chunk(" it")], unfinished=True), Reply(whole("Good ", "day", "!"))]
    send(page, "Hi")
    expect(page.get_by_text("Half of it")).to_be_visible()
    button(page, "Stop").click()
    chat(page, "Again")
    assert shown(page) == ["Hi", "Half of it", "Again", "Good day!"]
    numbers = page.locator(".numbers").last
    expect(numbers).to_have_text(re.compile(r"^\d+\.\d\d s to first token( · [\d.,]+ tokens/s)? · 20 / 2,048 tokens$"))
    numbers.click()
    expect(page.locator(".tools dl").last).to_contain_text(MODEL["artifact"])


def test_tokens_per_second_are_those_after_the_first(page: Page, server: ScriptedServer) -> None:
    pause_s = 4.0
    server.replies.append(Reply(whole(*["word "] * 50), first_pause_s=pause_s))
    began = time.monotonic()
    chat(page, "Hi")
    seconds = time.monotonic() - began
    rate = re.search(r"([\d.]+) tokens/s", page.locator(".numbers").inner_text())
    assert rate and float(rate[1]) > 0.95 * 49 / (seconds - pause_s)


@pytest.mark.parametrize(
    "reply", [Reply(unanswered=True), Reply(unfinished=True), Reply([chunk("One")], unfinished=True)]
)
def test_stop_reaches_the_server_in_every_phase(page: Page, server: ScriptedServer, reply: Reply) -> None:
    """Before the response begins, before the first token, and after it."""
    server.replies.append(reply)
    send(page, "Count")
    until(lambda: server.requests, "the request")
    if reply.reads:
        expect(page.get_by_text("One", exact=True)).to_be_visible()
    button(page, "Stop").click()
    until(lambda: server.closed_by_page == 1, "the page to close the connection")
    expect(note(page)).to_contain_text("Stopped." if reply.reads else "Stopped before the first token.")
    chat(page, "And now?")
    assert shown(page)[-1] == "You wrote: And now?"


def test_a_stopped_answer_is_continued_in_place(page: Page, server: ScriptedServer) -> None:
    server.replies += [Reply([chunk("One, two")], unfinished=True), Reply(whole(", three"))]
    send(page, "Count")
    expect(page.get_by_text("One, two")).to_be_visible()
    page.keyboard.press("Escape")
    button(page, "Continue").click()
    expect(page.get_by_text("One, two, three")).to_be_visible()
    assert server.requests[1]["messages"][-1] == {"role": "assistant", "content": "One, two"}
    assert shown(page) == ["Count", "One, two, three"]


def test_an_edited_message_starts_a_branch_and_keeps_the_old_one(page: Page, server: ScriptedServer) -> None:
    chat(page, "red", "blue")
    page.locator(".user").first.hover()
    page.locator(".user").first.get_by_role("button", name="Edit message").click()
    editor = page.get_by_role("textbox", name="Edit message")
    expect(editor).to_be_focused()
    editor.fill("green")
    editor.press("Enter")
    expect(page.get_by_text("You wrote: green")).to_be_visible()
    finished(page)
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "green"}]
    assert shown(page) == ["green", "You wrote: green"]
    expect(page.get_by_text("2/2")).to_be_visible()
    button(page, "Previous version").click()
    assert shown(page) == ["red", "You wrote: red", "blue", "You wrote: blue"]
    expect(button(page, "Next version")).to_be_focused()
    page.keyboard.press("Enter")
    assert shown(page) == ["green", "You wrote: green"]


def test_a_regenerated_answer_is_a_version_and_the_next_message_follows_the_one_shown(
    page: Page, server: ScriptedServer
) -> None:
    server.replies += [Reply(whole("first")), Reply(whole("second")), Reply(whole("third"))]
    chat(page, "Hi")
    for version in ("second", "third"):
        button(page, "Regenerate answer").click()
        expect(page.get_by_text(version)).to_be_visible()
        finished(page)
    expect(page.get_by_text("3/3")).to_be_visible()
    button(page, "Previous version").click()
    button(page, "Previous version").click()
    chat(page, "Go on")
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["Hi", "first", "Go on"]
    assert len({request["seed"] for request in server.requests[:3]}) == 3


def test_reloading_keeps_the_conversation_its_branch_and_what_was_typed(page: Page) -> None:
    chat(page, "red")
    button(page, "Regenerate answer").click()
    finished(page)
    button(page, "Previous version").click()
    box(page).fill("not yet sent")
    page.reload()
    assert shown(page) == ["red", "You wrote: red"]
    expect(page.get_by_text("1/2")).to_be_visible()
    expect(box(page)).to_have_value("not yet sent")


def test_reloading_during_an_answer_keeps_what_arrived(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply([chunk("The beginning")], unfinished=True))
    send(page, "Go")
    expect(page.get_by_text("The beginning")).to_be_visible()
    page.reload()
    assert shown(page) == ["Go", "The beginning"]
    expect(note(page)).to_contain_text("Stopped.")
    until(lambda: server.closed_by_page == 1, "the connection to close")


def test_conversations_are_listed_renamed_deleted_and_brought_back(page: Page) -> None:
    chat(page, "about trees")
    page.get_by_role("link", name="New conversation").click()
    assert shown(page) == []
    chat(page, "about stones")
    assert conversations(page).all_inner_texts() == ["about stones", "about trees"]
    conversations(page).last.click()
    assert shown(page)[0] == "about trees"
    button(page, "Rename about trees").click()
    page.get_by_role("textbox", name="New name").fill("Oaks")
    page.keyboard.press("Enter")
    assert conversations(page).all_inner_texts() == ["about stones", "Oaks"]
    expect(conversations(page).last).to_be_focused()
    page.get_by_role("button", name="Delete Oaks").click()
    assert conversations(page).all_inner_texts() == ["about stones"]
    page.reload()
    assert conversations(page).all_inner_texts() == ["about stones"]
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Delete about stones").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("You wrote: about stones")).to_be_visible()
    page.go_back()
    page.go_forward()
    assert shown(page)[0] == "about stones"


def test_an_answer_goes_on_while_another_conversation_is_shown(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply(whole(*[f"{number} " for number in range(60)])))
    send(page, "Count")
    expect(page.get_by_text("0 1 2")).to_be_visible()
    page.get_by_role("link", name="New conversation").click()
    chat(page, "Meanwhile")
    assert shown(page) == ["Meanwhile", "You wrote: Meanwhile"]
    conversations(page).filter(has_text="Count").click()
    expect(page.get_by_text("58 59")).to_be_visible()


def test_two_tabs_show_the_same_conversations(page: Page) -> None:
    other = page.context.new_page()
    other.goto(page.url)
    chat(page, "from the first tab")
    expect(conversations(other)).to_have_text(["from the first tab"])
    conversations(other).click()
    chat(other, "from the second")
    expect(page.get_by_text("You wrote: from the second")).to_be_visible()


def test_exported_conversations_are_imported_as_they_were(
    page: Page, open_page: OpenPage, server: ScriptedServer, tmp_path: Path
) -> None:
    calculation = {"expression": "2+3", "result": "5", "offset": 0}
    server.replies.append(Reply([chunk("5 of them", calculator=[calculation]), *whole()[1:]]))
    chat(page, "How many?")
    button(page, "Regenerate answer").click()
    finished(page)
    page.get_by_role("link", name="New conversation").click()
    chat(page, "Wörter und 🦆")
    first = exported(page, tmp_path).read_text()
    elsewhere = open_page()
    imported(elsewhere, tmp_path / "conversations.json")
    expect(notice(elsewhere)).to_contain_text("Imported 2 conversations.")
    second = exported(elsewhere, tmp_path).read_text()
    assert json.loads(second) == json.loads(first)
    assert json.loads(first)["conversations"][-1]["messages"][1]["content"] == [
        {"type": "python", "text": "2+3"},
        {"type": "python_output", "text": "5"},
        {"type": "text", "text": "5 of them"},
    ]


def test_a_conversation_in_openais_form_is_imported(page: Page, server: ScriptedServer, tmp_path: Path) -> None:
    conversation = linear("Hi", "Hello!")
    conversation["messages"] = [{"role": "system", "content": "Be brief."}, *conversation["messages"]]
    imported(page, tmp_path / "one.json", conversation)
    expect(page.get_by_text("Hello!")).to_be_visible()
    chat(page, "Go on")
    roles = [message["role"] for message in server.requests[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "The file is not JSON."),
        ([], "The file has no conversations."),
        ({"conversations": "x"}, "The file has no conversations."),
        ([linear("Hi", "Hello"), {"messages": 3}], "Conversation 2: it has no list of messages."),
        ({"messages": [{"role": "user"}]}, "Conversation 1: message 1 has no text."),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "Conversation 1: message 1 must be from the user."),
        (
            {"messages": [{"role": "user", "content": "Hi", "parent": 0}]},
            "message 1 does not follow an earlier message.",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}]}, "message 1 has no text."),
        ({"messages": [None]}, "Conversation 1: message 1 must be from the user."),
    ],
)
def test_a_file_that_cannot_be_imported_changes_nothing(
    page: Page, tmp_path: Path, content: object, problem: str
) -> None:
    imported(page, tmp_path / "bad.json", content)
    expect(notice(page)).to_contain_text(f"Nothing was imported. {problem}" if "Conv" in problem else problem)
    assert conversations(page).count() == 0


def test_several_edits_are_open_and_outlast_another_conversation(page: Page) -> None:
    chat(page, "red", "blue")
    for color in ("red", "blue"):
        message = page.locator(".user").filter(has_text=color)
        message.hover()
        message.get_by_role("button", name="Edit message").click()
        page.get_by_role("textbox", name="Edit message").last.press_sequentially(" wine" if color == "red" else " sky")
    page.get_by_role("link", name="New conversation").click()
    conversations(page).click()
    editors = page.get_by_role("textbox", name="Edit message")
    expect(editors).to_have_count(2)
    assert [editors.nth(place).input_value() for place in (0, 1)] == ["red wine", "blue sky"]
    editors.last.press("Enter")
    expect(page.get_by_text("You wrote: blue sky")).to_be_visible()
    expect(editors).to_have_value("red wine")
    editors.press("Escape")
    assert shown(page)[0] == "red"


def test_an_empty_answer_is_not_sent(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply(status=400, error="No."))
    send(page, "Hi")
    expect(note(page)).to_have_text("No.")
    chat(page, "Again")
    assert [message["content"] for message in server.requests[1]["messages"]] == ["Hi", "Again"]


def test_the_lineage_follows_a_model_that_was_replaced(page: Page, server: ScriptedServer) -> None:
    expect(page.get_by_role("link", name="Lineage of this model")).to_have_attribute(
        "href", re.compile("0123456789abcdef")
    )
    server.models = [{**MODEL, "artifact": "sft/new", "lineage": "/lineage/sft/new"}]
    server.replies.append(Reply(whole("Hello"), headers={"x-nanochat-artifact": "sft/new"}))
    chat(page, "Hi")
    expect(page.get_by_role("link", name="Lineage of this model")).to_have_attribute(
        "href", re.compile("/lineage/sft/new")
    )


def test_settings_reach_the_server_are_kept_and_reset(page: Page, server: ScriptedServer) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("1.2")
    page.get_by_label("Top p").fill("0.9")
    page.get_by_label("Top k").fill("7")
    page.get_by_label("Max tokens").fill("100")
    page.get_by_label("Seed").fill("3")
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_role("button", name="Done").click()
    chat(page, "Hi")
    page.reload()
    button(page, "Regenerate answer").click()
    finished(page)
    first, second = server.requests
    chosen = {"temperature": 1.2, "top_p": 0.9, "top_k": 7, "max_tokens": 100, "seed": 3}
    assert {name: first[name] for name in chosen} == chosen
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (second["temperature"], second["seed"]) == (1.2, 4)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Reset").click()
    page.keyboard.press("Escape")
    chat(page, "Hi again")
    assert (server.requests[2]["temperature"], server.requests[2]["messages"][0]["role"]) == (0.6, "user")
    expect(page.get_by_role("button", name="Settings")).to_be_visible()


def test_a_setting_out_of_range_is_described_and_not_used(page: Page, server: ScriptedServer) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Max tokens").fill("0")
    expect(page.locator("#max-tokens-hint")).to_contain_text("1")
    expect(page.get_by_label("Max tokens")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Done").click()
    chat(page, "Hi")
    assert server.requests[0]["max_tokens"] == 256


def test_an_answer_is_no_longer_than_the_models_context(open_page: OpenPage, server: ScriptedServer) -> None:
    server.models = [{**MODEL, "max_model_len": 64}]
    page = open_page()
    expect(page.get_by_text("context of 64 tokens")).to_be_visible()
    chat(page, "Hi")
    assert server.requests[0]["max_tokens"] == 64


def test_the_model_has_its_name_and_lineage_and_is_chosen_if_there_are_several(
    open_page: OpenPage, server: ScriptedServer
) -> None:
    server.models = [MODEL, {**MODEL, "id": "chat/older", "lineage": "javascript:alert(1)"}]
    page = open_page()
    with page.context.expect_page() as lineage:
        page.get_by_role("link", name="Lineage of this model").click()
    expect(lineage.value.get_by_role("heading", name="Lineage")).to_be_visible()
    page.get_by_role("combobox", name="Model").select_option("chat/older")
    expect(page.get_by_role("link", name="Lineage of this model")).to_have_count(0)
    chat(page, "Hi")
    page.reload()
    chat(page, "Hi")
    assert {request["model"] for request in server.requests} == {"chat/older"}


def test_the_end_is_followed_until_the_reader_scrolls_up(page: Page, server: ScriptedServer) -> None:
    def scroll_top() -> float:
        return page.locator("#scroll").evaluate("scroll => scroll.scrollTop")

    server.replies.append(Reply([chunk(f"line {number}\n\n") for number in range(600)], unfinished=True))
    send(page, "Write much")
    expect(page.get_by_text("line 60", exact=True)).to_be_attached()
    expect(page.get_by_role("button", name="Go to the end")).to_have_count(0)
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -60)
    expect(page.get_by_role("button", name="Go to the end")).to_be_visible()
    page.wait_for_timeout(500)  # the wheel turns on for a moment
    top = scroll_top()
    expect(page.get_by_text("line 599", exact=True)).to_be_attached()
    assert scroll_top() == top
    page.get_by_role("button", name="Go to the end").click()
    expect(page.get_by_text("line 599", exact=True)).to_be_in_viewport()
    expect(page.get_by_role("button", name="Go to the end")).to_have_count(0)


def test_nothing_moves_while_an_answer_is_written(page: Page, server: ScriptedServer) -> None:
    server.replies.append(Reply([chunk("A few words")], unfinished=True))
    send(page, "Hi")
    positions = """['#message-0', '#message-1 > .text', '#box'].map(
        (each) => document.querySelector(each).getBoundingClientRect().y)"""
    expect(page.locator("#message-1")).to_be_visible()
    before = page.evaluate(positions)
    expect(page.get_by_text("A few words")).to_be_visible()
    during = page.evaluate(positions)
    button(page, "Stop").click()
    expect(note(page)).to_have_text("Stopped.")
    assert before == during == page.evaluate(positions)


def test_text_and_code_are_copied(open_page: OpenPage, server: ScriptedServer) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    server.replies.append(Reply(whole("Like this:\n```python\nif x:\n", "    y = 1\n```\nDone.")))
    chat(page, "How?")
    read = "navigator.clipboard.readText()"
    button(page, "Copy code").click()
    until(lambda: page.evaluate(read) == "if x:\n    y = 1", "the code on the clipboard")
    button(page, "Copy answer").click()
    until(lambda: page.evaluate(read).startswith("Like this:\n```python"), "the answer on the clipboard")
    expect(page.locator("pre")).to_have_text("if x:\n    y = 1")
