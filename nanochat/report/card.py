"""The data card in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BAR = 20


def facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What there is to say in a line each: name and value."""
    train, held_out = card["train_documents"], card["validation_documents"]
    return [
        ("shards", f"{card['shards']:,}"),
        ("documents", f"{train:,} to train on, {held_out:,} held out, {card['skipped_documents']:,} empty"),
        ("tokens", f"{card['train_tokens']:,} to train on, {card['validation_tokens']:,} held out"),
        ("text", f"{(card['train_bytes'] + card['validation_bytes']) / 1e6:,.1f} MB"),
        ("compression", f"{card['bytes_per_token']:.3f} bytes a token"),
        ("length of a document", f"median {card['median_tokens']:,}, longest {card['longest_tokens']:,} tokens"),
        ("exact duplicates", f"{card['duplicates']:,} documents ({card['duplicates'] / max(train, 1):.2%})"),
        ("held out, and trained on all the same", f"{card['validation_in_training']:,} documents"),
        ("languages, roughly", ", ".join(f"{name} {share:.1%}" for name, share in card["languages"].items())),
        ("tokens cropped by packing", f"{card['cropped_share']:.3%}"),
        ("tokens of padding", f"{card['padded_share']:.3%}"),
    ]


def length_rows(card: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Length in tokens, documents, share; from the first length that a document has."""
    first = next((k for k, count in enumerate(card["lengths"]) if count), 0)
    total = max(sum(card["lengths"]), 1)
    return [
        (f"{1 << k:,} – {(2 << k) - 1:,}", count, count / total)
        for k, count in enumerate(card["lengths"])
        if k >= first
    ]


def as_markdown(card: Mapping[str, Any]) -> str:
    """The facts and the lengths, as two tables."""
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(card))]
    lines += ["", "| tokens of a document | | documents |", "|---|---|---|"]
    most = max((share for *_, share in length_rows(card)), default=1) or 1
    for length, count, share in length_rows(card):
        lines.append(f"| {length} | {'█' * round(BAR * share / most)} | {count:,} ({share:.1%}) |")
    return "\n".join(lines) + "\n"
