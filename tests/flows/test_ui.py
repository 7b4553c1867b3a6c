"""What a person does in the Prefect UI, done by a browser: run from the form, follow, look, run again, cancel."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.flows.site import Site, ended, tiny, until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.prefect,
    pytest.mark.site,
    pytest.mark.browser,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1300, "height": 1000}, reduced_motion="reduce")
        context.set_default_timeout(300_000)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def form(both_pools: Site) -> str:
    """Address of the form of `demo`, filled with a config so small that it can be waited for."""
    deployment = both_pools.deployment("demo")
    both_pools.post(f"deployments/{deployment}", {"parameters": {"profile": "demo", "config": tiny()}}, "PATCH")
    return f"{both_pools.api_url.removesuffix('/api')}/deployments/deployment/{deployment}/run"


def number(page: Page, name: str) -> Locator:
    """The box of a field of the form."""
    label = page.get_by_text(f"{name} (Optional)", exact=True)
    return page.locator(".schema-form-property", has=label).last.locator("input")


def submit(page: Page, site: Site, form: str, **fields: str) -> str:
    """Fills the form; id of the run that it starts."""
    known = {run["id"] for run in site.post("flow_runs/filter")}
    page.goto(form)
    for name, value in fields.items():
        number(page, name).fill(value)

    def started() -> list[str]:
        return [run["id"] for run in site.post("flow_runs/filter") if run["id"] not in known]

    page.get_by_role("button", name="Submit").click()
    try:
        return until(started, "the run")[0]
    except AssertionError:  # a page of a busy machine loses a click, or its server's database was locked
        page.get_by_role("button", name="Submit").click()
        return until(started, f"the run; the page has {page.inner_text('body')[-500:]}")[0]


def open_run(page: Page, form: str, run_id: str) -> None:
    page.goto(f"{form.partition('/deployments')[0]}/runs/flow-run/{run_id}")


def tab(page: Page, name: str) -> None:
    page.locator(".p-tab", has_text=name).first.click()


def follow(page: Page, link: Locator) -> Page:
    """The page that a link opens, in a tab of its own."""
    with page.context.expect_page() as opened:
        link.click()
    return opened.value


def test_the_form_shows_the_profile_and_refuses_what_cannot_be(browser: Any, form: str) -> None:
    page = browser.new_page()
    page.goto(form)
    assert number(page, "Depth").input_value() == "2"
    assert number(page, "Vocab Size").input_value() == "512"
    page.get_by_text("Number of layers; width, batch size, tokens and learning rates follow from it.").wait_for()
    number(page, "Depth").fill("0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("'config.pretrain.model.depth'. Failure reason: 0 is less than the minimum of 1").first.wait_for()
    assert page.url == form
    page.close()


def test_run_look_follow_run_again(browser: Any, both_pools: Site, form: str) -> None:
    page = browser.new_page()
    run_id = submit(page, both_pools, form, Depth="3")
    both_pools.wait(run_id, lambda run: run["state_name"] == "Running")  # it has its name by then
    open_run(page, form, run_id)
    page.get_by_text("demo · d3 · world").first.wait_for()
    page.locator(".state-badge", has_text="Completed").first.wait_for(timeout=600_000)
    tab(page, "Task Runs")
    page.get_by_text("tokenize world_00001").first.wait_for()

    tab(page, "Artifacts")
    page.get_by_text(f"run-{run_id[:8]}").first.click()
    page.get_by_text("All models so far").wait_for()
    model = follow(page, page.locator("tr", has_text="pretrain").get_by_role("link"))
    model.get_by_text("pretrain → Model").first.wait_for()
    pictures = model.locator("img[src^='data:image/svg']")
    pictures.nth(1).wait_for()
    for picture in (pictures.nth(0), pictures.nth(1)):  # the loss, and the lineage
        until(lambda shown=picture: shown.evaluate("image => image.naturalWidth") > 100, "a picture")
    rows = follow(model, model.locator("tr", has_text="pack").get_by_role("link").first)
    rows.get_by_text("pack → Rows").first.wait_for()
    models = follow(page, page.get_by_text("All models so far"))
    models.get_by_text("Chat models").first.wait_for()

    again = submit(page, both_pools, form, Depth="3")
    open_run(page, form, again)
    page.locator(".state-badge", has_text="Cached").first.wait_for(timeout=600_000)
    for each in (rows, models, model, page):
        each.close()


def test_a_failed_run_is_retried_with_the_button_and_finds_its_work_done(
    browser: Any, both_pools: Site, form: str, tmp_path: Path
) -> None:
    talk = tmp_path / "talk.jsonl"
    item = json.dumps([{"task": "conversations", "source": str(talk)}])
    run_id = both_pools.start(profile="demo", config=tiny(f"conversations.train={item}"))
    failed = both_pools.wait(run_id, ended)
    assert (failed["state_name"], str(talk) in failed["state"]["message"]) == ("Failed", True), failed["state"]
    message = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    talk.write_text(f"{json.dumps(message)}\n" * 40)

    page = browser.new_page()
    open_run(page, form, run_id)
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    done = both_pools.wait(run_id, lambda run: ended(run) and run["state_name"] != "Failed")
    counted = re.fullmatch(r"(\d) computed, (\d+) cached", done["state"]["message"])
    assert counted, done["state"]
    assert int(counted[2]) >= 7, "what had nothing to do with the failure was done again"
    page.close()


def test_a_run_is_watched_and_cancelled(browser: Any, both_pools: Site, form: str) -> None:
    page = browser.new_page()
    run_id = submit(page, both_pools, form, Depth="3", Amount="100000")
    open_run(page, form, run_id)
    page.get_by_text(re.compile(r"of 100,000 steps · loss [\d.]+ · tokens per s [\d,]+ .* left")).first.wait_for(
        timeout=600_000
    )
    tab(page, "Artifacts")
    page.get_by_text(re.compile(r"pretrain: [\d,]+ of 100,000 steps")).first.wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    assert both_pools.wait(run_id, ended)["state_name"] == "Cancelled"
    page.locator(".state-badge", has_text="Cancelled").first.wait_for()
    until(lambda: not both_pools.processes("nanochat.training"), "training to end")
    page.close()
