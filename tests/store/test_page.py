"""The page of a lineage: whole, alone, every link leads somewhere, and what is written in a config stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from nanochat.lineage.page import as_page
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store
from nanochat.store.verification import discard

NASTY = "<script>alert('x')</script> & \"quoted\""


class Page(HTMLParser):
    """Collects tags, anchors, links, those of the picture apart, and the visible text."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.nodes: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.anchors += [str(value) for name, value in attrs if name == "id"]
        found = [str(value) for name, value in attrs if name in ("href", "src", "xlink:href", "action")]
        self.links += found
        self.nodes += found if "svg" in self.open else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("down", [False, True])
def test_every_link_leads_somewhere_within_the_page(
    store: Store, made: tuple[list[Artifact], Manifest], down: bool
) -> None:
    text = as_page(store, made[0][0].manifest if down else made[1], down=down)
    page = Page(text)
    assert page.nodes == ["#download", "#pretrain", "#tokenize", "#train_tokenizer"]
    assert {link.removeprefix("#") for link in page.links} <= set(page.anchors)
    assert len(set(page.anchors)) == len(page.anchors)
    assert not re.findall(r"url\((?!#)|@import", text)
    assert not {"script", "link", "iframe", "img"} & page.tags


def test_each_artifact_is_listed_and_the_sources_are_last(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    page = Page(as_page(store, top))
    assert {f"pretrain-{top.key}", *(f"download-{each.key}" for each in raw), "sources"} <= set(page.anchors)
    for reported in (top.digest, top.producer.code_sha256, "1,234", "5 of them sources"):
        assert reported in page.text
    end = page.text[page.text.rindex("Sources") :]
    for each in raw:
        assert each.manifest.files[0].sha256 in end
        assert each.manifest.config["name"] in end


def test_a_missing_artifact_has_no_link_and_is_reported(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    discard(store, [raw[4].manifest], "a test")
    page = Page(as_page(store, top))
    assert f"#download-{raw[4].key}" not in page.links
    assert "download download (gone)" in page.text
    assert "1 more have left the store" in page.text
    assert "×5 (1 gone)" in page.text


def test_what_stands_in_a_config_is_text_and_nothing_else(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    nasty = {"config": {"name": NASTY, NASTY: [NASTY]}, "metrics": {NASTY: NASTY}}
    text = as_page(store, made[0][0].manifest.model_copy(update=nasty))
    assert "<script" not in text
    assert (
        Page(text).text.count("<script>alert('x')</script>") == 6
    )  # three in the config, two in the metrics, one in the sources
