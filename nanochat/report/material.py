"""The chapter "What was it made from?": the data card, and how well the vocabulary fits."""

from __future__ import annotations

from nanochat.report.data_card import conversation_facts, facts, length_rows
from nanochat.report.document import Block, Facts, Figure, Fold, Heading, Table, Text
from nanochat.report.figures import Bar, Group, bars
from nanochat.report.inputs import ReportInputs, read_json
from nanochat.report.vocabularies import compression

MOST_SHOWN = 8
"""Languages in the caption."""


def material(inputs: ReportInputs) -> list[Block]:
    """Text, conversations and vocabulary."""
    card = read_json(inputs.one("data_card"), "card.json")
    counted = length_rows(card)
    lengths = [Group(f"{name} tokens", [Bar(count, f"{count:,} ({share:.1%})")]) for name, count, share in counted]
    languages = [Group(name, [Bar(share, f"{share:.1%}", 2)]) for name, share in card["languages"].items()]
    return [
        Facts([*facts(card), *conversation_facts(inputs.one("converse").metrics)]),
        Heading("Length of the documents"),
        Figure(bars(lengths), "Documents by their number of tokens."),
        Fold("Lengths as a table", [
            Table(["tokens of a document", "documents", "share"],
                  [[name, f"{count:,}", f"{share:.1%}"] for name, count, share in counted], ("documents", "share"))]),
        Heading("Languages, roughly, of a sample"),
        Figure(bars(languages), "Share of the documents: " + ", ".join(
            f"{name} {share:.1%}" for name, share in list(card["languages"].items())[:MOST_SHOWN]) + "."),
        *_vocabulary(inputs),
    ]  # fmt: skip


def _vocabulary(inputs: ReportInputs) -> list[Block]:
    found = compression(inputs.one("train_tokenizer"), inputs.stages["download"])
    names = list(found.sizes)
    groups = [
        Group(kind, [Bar(ratios[name], f"{ratios[name]:.2f}", n) for n, name in enumerate(names)])
        for kind, ratios in found.ratios.items()
    ]
    rows = [[kind, *(f"{ratios[name]:.2f}" for name in names)] for kind, ratios in found.ratios.items()]
    described = ", ".join(f"{name} of {size:,} tokens" for name, size in found.sizes.items())
    blocks: list[Block] = [
        Heading("Vocabulary"),
        Text(f"Bytes per token by kind of text: more is shorter. Vocabularies: {described}."),
        Figure(bars(groups, names if len(names) > 1 else ()), "Bytes of UTF-8 per token, by kind of text."),
        Fold("Bytes per token as a table", [Table(["text", *names], rows, names)]),
    ]
    if found.absent:
        blocks.append(
            Text(f"Not compared, because tiktoken has no copy on this machine: {', '.join(found.absent)}.", "dim")
        )
    return blocks
