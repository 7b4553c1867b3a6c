"""The page and the real server, with small models whose answers are known."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from nanochat.store.store import Store
from tests.serve.models import ANSWER, CHAINS, CONTEXT, chain_model, ids, publish
from tests.serve.page.conftest import OpenPage
from tests.serve.page.driving import box, button, chat, note, send, shown
from tests.serve.servers import Running, load_breaking, running
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
GREEDY = "if (location.protocol === 'http:') localStorage.setItem('nanochat.settings', '{\"temperature\": 0}');"


ALIASES = ("chat/latest", "chat/calculating", "chat/endless")
CALCULATING = (
    ids("<|assistant_start|>", "<|python_start|>", "3+4", "<|python_end|>"),
    ids("<|output_end|>", "ABCD", "<|assistant_end|>"),
)
ENDLESS = (ids("<|assistant_start|>", "abcdea"),)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a model that answers `ANSWER`, one that calculates, and one that never ends."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(str(folder / "store"), folder / "cache")
    for place, chains in enumerate((CHAINS, CALCULATING, ENDLESS)):
        publish(store, folder / str(place), chain_model(chains), key=f"{place}" * 64, alias=ALIASES[place])
    return store


@pytest.fixture
def served(models: Store) -> Iterator[Running]:
    """A server with one slot for each model, and no queue."""
    with running(models, load_breaking, models=ALIASES, slots=1, queue=0) as found:
        yield found


def choose(page: Page, name: str) -> None:
    page.get_by_role("combobox", name="Model").select_option(name)


@pytest.fixture
def page(open_page: OpenPage, served: Running) -> Page:
    return open_page(GREEDY, url=served.address)


def test_a_conversation_with_the_calculator(page: Page) -> None:
    chat(page, "Hi")
    choose(page, "chat/calculating")
    chat(page, "And 3 + 4?", "Again")
    assert shown(page)[1::2] == [ANSWER, "3 + 4 = 7ABCD", "3 + 4 = 7ABCD"]
    expect(page.locator(".calculation")).to_have_text(["3 + 4 = 7", "3 + 4 = 7"])
    expect(page.locator(".numbers").last).to_have_text(re.compile(rf"s to first token.* / {CONTEXT} tokens$"))


def test_the_lineage_is_one_click_away(page: Page) -> None:
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Lineage of this model").click()
    expect(opened.value.get_by_text("sft 00000000").first).to_be_visible()


@pytest.mark.parametrize("tokens", [0, 3])
def test_stop_frees_the_slot(page: Page, served: Running, tokens: int) -> None:
    """Before the first token and after it."""
    engine = served.engines[2]
    choose(page, "chat/endless")
    if tokens:
        engine.step_s = 0.05
    else:
        engine.gate.clear()
    send(page, "Hi")
    until(lambda: served.server.serving.models.answers == 1, "the answer to begin")
    if tokens:
        expect(page.locator(".answer > .text")).to_contain_text("bcd")
    button(page, "Stop").click()
    expect(note(page)).to_contain_text("Stopped")
    engine.gate.set()
    served.wait_until_idle()


def test_an_answer_ends_at_the_limit_and_is_continued(page: Page) -> None:
    button(page, "Settings").click()
    page.get_by_label("Max tokens").fill("4")
    button(page, "Done").click()
    choose(page, "chat/endless")
    chat(page, "Hi")
    expect(note(page)).to_have_text("Ended at the limit of tokens.")
    button(page, "Continue").click()
    expect(page.locator(".answer > .text")).to_have_text("abcdeabc")


def test_a_conversation_longer_than_the_context_is_an_error_in_place(page: Page) -> None:
    send(page, "x" * CONTEXT)
    expect(note(page)).to_contain_text(f"the model's context has {CONTEXT}")
    button(page, "Edit message").click()
    page.get_by_role("textbox", name="Edit message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.get_by_text(ANSWER)).to_be_visible()


def test_a_full_queue_is_waited_for(page: Page, served: Running) -> None:
    engine = served.engines[0]
    engine.gate.clear()
    other = threading.Thread(target=served.chat)
    other.start()
    until(lambda: served.server.serving.models.answers == 1, "the answer of another client")
    send(page, "Hi")
    expect(note(page)).to_contain_text(re.compile(r"The server is busy: its queue is full. Next try in \d+ s."))
    engine.gate.set()
    other.join()
    expect(page.get_by_text(ANSWER)).to_be_visible()


def test_a_token_is_needed(open_page: OpenPage, models: Store) -> None:
    with running(models, tokens=("s3cret",)) as guarded:
        page = open_page(GREEDY, url=guarded.address)
        page.get_by_label("Bearer token").fill("s3cret")
        button(page, "Use this token").click()
        expect(page.locator("#model-name")).to_have_text("chat/latest")
        chat(page, "Hi")
        assert shown(page) == ["Hi", ANSWER]
        page.context.close()


def test_a_server_that_ends_keeps_the_text(page: Page, served: Running) -> None:
    chat(page, "Hi")
    served.server.should_exit = True
    until(lambda: not reachable(served), "the server to end")
    send(page, "Still there?")
    expect(note(page)).to_have_text("The server cannot be reached.")
    assert shown(page)[2] == "Still there?"
    expect(box(page)).to_be_focused()


def reachable(served: Running) -> bool:
    """Whether the server still takes connections."""
    try:
        return served.http.get("/health").is_success
    except httpx.TransportError:
        return False
