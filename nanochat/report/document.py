"""A page as data: blocks of text, numbers, tables, figures and samples. Rendered as Markdown and as one HTML file.

    Document("Title", "subtitle", [Chapter("What was made", [Text("A model of 1.3 M parameters."), Table(...)])])

A figure has its numbers in its caption or in its labels, so that both forms say the same.
"""  # plain-words: ok

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from nanochat.report.figures import Drawing
from nanochat.report.templates import render_template

LONGEST_TEXT = 2000
"""Characters of a sample that are shown."""

Tone = Literal["", "dim", "good", "bad", "code", "strong"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    points: Sequence[str]
    kind: ClassVar[str] = "points"


@dataclass(frozen=True)
class Tiles:
    """The most important numbers, as (label, value)."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Facts:
    """A list of (name, value)."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a tone; good and bad are also words, never only colours."""

    text: str
    tone: Tone = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table; on narrow screens each row becomes a list of (head, cell)."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: Sequence[str] = ()
    """Heads of the columns that are aligned to the right."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption. Markdown has the caption only."""

    drawing: Drawing
    caption: str
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Sample:
    """A text of a model after its prompt, with what was expected of it."""

    prompt: str
    text: str
    label: str = ""
    """The task, or what the sample shows."""
    right: bool | None = None
    expected: str = ""

    def shown(self) -> Sample:
        """The sample with texts of at most `LONGEST_TEXT` characters."""
        return Sample(_shortened(self.prompt), _shortened(self.text), self.label, self.right, _shortened(self.expected))


@dataclass(frozen=True)
class Samples:
    """Texts of models."""

    samples: Sequence[Sample]
    kind: ClassVar[str] = "samples"


@dataclass(frozen=True)
class Fold:
    """Blocks behind a title, closed at first in HTML; always open in Markdown."""

    title: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Heading:
    """The title of a part of a chapter."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Code:
    """Text with its line breaks, such as a config. Markdown leaves it out."""

    text: str
    kind: ClassVar[str] = "code"


Block = Text | Points | Tiles | Facts | Table | Figure | Samples | Fold | Heading | Code


@dataclass(frozen=True)
class Chapter:
    """A part of a page under its own heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole page."""

    title: str
    subtitle: str
    chapters: Sequence[Chapter]
    head: Sequence[Block] = field(default_factory=tuple)
    """Blocks before the first chapter."""

    def render(self) -> tuple[str, str]:
        """The page, as Markdown and as HTML. Chapters without blocks are left out."""
        chapters = [chapter for chapter in self.chapters if chapter.blocks]
        return render_template(
            "document", {"title": self.title, "subtitle": self.subtitle, "head": self.head, "chapters": chapters}
        )


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
