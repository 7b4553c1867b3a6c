"""The page of questions in a real Chromium: what it shows, its filters, ten thousand questions, and no mouse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nanochat.evaluation.examples import Example
from nanochat.report.questions import PAGE, questions_page

pytest.importorskip("playwright")

from playwright.sync_api import expect

from tests.serve.page.conftest import chromium  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \u2028 naïve 日本"


def example(number: int, **values: Any) -> Example:
    """A question with three choices, of which the first is right; the model takes the first of every second one."""
    right = number % 2 == 0
    return Example(
        **{
            "task": "arc_easy", "question": str(number), "kind": "choice", "baseline": 0.25,
            "prompt": f"What is the colour of thing {number}?", "prompt_sha256": "0" * 64,
            "choices": ("red", "blue", "green and yellow"), "choice_nats": (1.0 + number / 1000, 2.0, 6.0),
            "choice_tokens": (1, 1, 3), "choice_bytes": (4, 5, 17), "gold": "red", "gold_bits": 1.4427 + number / 1000,
            "answer": "red" if right else "blue", "right": right, "verdict": "right" if right else "wrong",
            **values,
        }
    )  # fmt: skip


def several() -> list[Example]:
    found = [example(number) for number in range(120)]
    written = {
        "task": "gsm8k", "kind": "generate", "choices": (), "choice_nats": (), "choice_tokens": (), "choice_bytes": (),
        "gold_bits": None, "gold": "18", "subject": "sums", "right": False,
    }  # fmt: skip
    found.append(example(500, **written, answer=f"It is\n\n17 {NASTY}", prompt=NASTY + "\nline" * 40, verdict="wrong"))
    found.append(example(501, **written, answer="It is", verdict="truncated"))
    found.append(example(502, **written, answer="#### $18", verdict="wrong", right_flexible=True))
    return found


@pytest.fixture
def open_page(chromium: Browser, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    contexts, problems, requests = [], list[str](), list[str]()

    def open_page(examples: list[Example], hash_: str = "", **options: Any) -> Page:
        file = tmp_path / "questions.html"
        file.write_text(questions_page("SmolLM2 <b>", "evaluate_core 1234abcd", examples), encoding="utf-8")
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
        context.on("dialog", lambda dialog: problems.append(dialog.message))
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.goto(file.as_uri() + hash_)
        expect(page.get_by_role("status")).to_contain_text("question")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
    assert {url.partition("#")[0] for url in requests} == {(tmp_path / "questions.html").as_uri()}


def status(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def test_a_question_shows_choices_bits_gold_answer_and_verdict(open_page: Any) -> None:
    page = open_page(several())
    assert page.get_by_role("heading", level=1).inner_text() == "SmolLM2 <b>"
    article = page.get_by_role("article", name="arc_easy · 1, wrong")
    rows = article.get_by_role("row").all_inner_texts()
    assert [re.split(r"\t", row) for row in rows[1:]] == [
        ["red", "right answer", "1.44", "1.44", "0.361"],
        ["blue", "model's answer", "2.89", "2.89", "0.577"],
        ["green and yellow", "", "8.66", "2.89", "0.509"],
    ]
    expect(article.get_by_text("What is the colour of thing 1?")).to_be_visible()
    expect(article.get_by_text("wrong", exact=True)).to_be_visible()
    tasks = page.get_by_role("region", name="Tasks").get_by_role("row").all_inner_texts()
    assert tasks[1].split("\t")[:2] == ["arc_easy", "50.0%"]
    assert tasks[1].split("\t")[3:] == ["25.0%", "120", "1.50"]


def test_text_of_models_stays_text(open_page: Any) -> None:
    page = open_page(several(), "#verdict=wrong&task=gsm8k")
    assert status(page) == "2 of 123 questions, 0 right (0.0%)."
    expect(page.get_by_role("definition").nth(1)).to_have_text(f"It is\n\n17 {NASTY}")
    expect(page.get_by_role("group", name="Question")).to_contain_text(NASTY)
    expect(page.get_by_text("by the lenient rule right")).to_be_visible()


def test_questions_are_filtered_by_task_verdict_and_text(open_page: Any) -> None:
    page = open_page(several())
    page.get_by_label("Verdict").select_option("truncated")
    assert status(page) == "1 of 123 questions, 0 right (0.0%)."
    page.get_by_label("Verdict").select_option("All")
    page.get_by_role("button", name="gsm8k").click()
    assert status(page).startswith("3 of 123")
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Text").fill("THING 11 colour")
    expect(page.get_by_role("status")).to_contain_text("11 of 123 questions")
    page.get_by_label("Text").fill("no such thing")
    expect(page.get_by_role("status")).to_have_text("No question of 123 matches.")
    assert page.get_by_role("listitem").count() == 0


def test_the_hardest_come_first_and_the_address_keeps_the_filter(open_page: Any) -> None:
    page = open_page(several())
    page.get_by_label("Order").select_option("Least likely right answer first")
    page.get_by_label("Verdict").select_option("wrong")
    first = page.get_by_role("heading", level=3).first
    expect(first).to_have_text("arc_easy · 119")
    page.get_by_role("button", name="Next page").click()
    assert "order=hard" in page.url
    assert "page=2" in page.url
    page.reload()
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    expect(page.get_by_label("Verdict")).to_have_value("wrong")
    assert page.get_by_role("heading", level=3).last.inner_text() == "gsm8k · 502"


def test_ten_thousand_questions_are_pages_of_fifty(open_page: Any, tmp_path: Path) -> None:
    page = open_page([example(number, prompt=f"Passage {number} " * 100) for number in range(10_000)])
    assert status(page) == "10,000 of 10,000 questions, 5,000 right (50.0%)."
    assert page.get_by_role("article").count() == 50
    assert (tmp_path / "questions.html").stat().st_size < 3_000_000
    page.get_by_label("Text").fill("Passage 9999")
    expect(page.get_by_role("status")).to_contain_text("1 of 10,000")
    page.get_by_label("Text").fill("")
    expect(page.get_by_text("Page 1 of 200")).to_be_visible()
    assert page.evaluate("document.querySelectorAll('*').length") < 3000


def test_it_works_without_a_mouse(open_page: Any) -> None:
    page = open_page(several())
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the questions")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Task", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("w")
    expect(page.get_by_role("status")).to_contain_text("62 of 123")
    page.get_by_role("button", name="Next page").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    expect(page.get_by_role("heading", name="Questions", exact=True)).to_be_focused()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_axe_finds_nothing(open_page: Any, color_scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(several(), color_scheme=color_scheme, viewport={"width": width, "height": 800})
    for task in ("arc_easy", "gsm8k"):
        page.get_by_label("Task", exact=True).select_option(task)
        found: list[dict[str, Any]] = axe.Axe().run(page).response["violations"]
        assert not [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_file_loads_nothing_and_never_parses_text_as_html() -> None:
    text = PAGE.read_text()
    assert not re.findall(r"https?://", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    made = questions_page("a", "b", several())
    assert "script-src 'sha256-" in made
    assert "alert(1)" not in made
