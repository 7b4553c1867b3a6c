"""The chapter "What went wrong?": what a run skipped, cut, repeated or warned about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.report.document import Block, Fold, Points, Text
from nanochat.report.inputs import ReportInputs, read_json, training_events
from nanochat.report.summary import readable
from nanochat.store.artifacts import Artifact

MOST_WARNINGS = 50
OVERFITTED = 1.01
"""The last validation loss, over the lowest one, from which a sentence is printed."""


def incidents(inputs: ReportInputs) -> list[Block]:
    """One sentence each; warnings of the stages behind a title."""
    found = [
        *(sentence for stage, each in inputs.stages.items() for sentence in _training(stage, each[0])),
        *_data(inputs),
        *_answers(read_json(inputs.chat_evaluation, "evaluation.json").get("tasks", {})),
        *_code(inputs),
    ]
    warnings = [
        f"{stage}: {warning}"
        for stage, each in inputs.stages.items()
        for artifact in each
        for warning in artifact.manifest.producer.warnings
    ]
    blocks: list[Block] = [Points(found)] if found else [Text("Nothing was recorded.")]
    if warnings:
        more = [f"… and {len(warnings) - MOST_WARNINGS:,} more"] if len(warnings) > MOST_WARNINGS else []
        blocks.append(Fold(f"{len(warnings):,} warnings", [Points([*warnings[:MOST_WARNINGS], *more])]))
    return blocks


def _training(stage: str, model: Artifact) -> list[str]:
    """Resumptions, rows that were skipped after a loss spike, and a rise of the validation loss."""
    found: list[str] = []
    if step := model.metrics.get("resumed_from_step"):
        found.append(f"{stage}: interrupted, and continued from step {step:,} of {model.metrics.get('steps', 0):,}.")
    if stage not in ("pretrain", "continue_pretrain", "sft"):
        return found
    events = training_events(model)
    batch, sequence = model.metrics.get("batch_tokens"), model.metrics.get("sequence_len")
    if stage != "sft" and batch and sequence and events and "rows_consumed" in events[-1]:
        skipped = events[-1]["rows_consumed"] - events[-1]["done"] * batch // sequence
        if skipped > 0:
            found.append(
                f"{stage}: {skipped:,} rows were skipped after a loss spike, or a gradient that is not finite."
            )
    number = "validation_loss" if stage == "sft" else "validation_bits_per_byte"
    held_out = [(event["done"], event[number]) for event in events if number in event]
    if held_out:
        best, last = min(held_out, key=lambda point: point[1]), held_out[-1]
        if last[1] > best[1] * OVERFITTED:
            found.append(
                f"{stage}: the {readable(number)} was lowest at step {best[0]:,} ({best[1]:.4f}) and rose to "
                f"{last[1]:.4f}: the model repeats its training text, or the rates are too high."
            )
    return found


def _data(inputs: ReportInputs) -> list[str]:
    card, chats = read_json(inputs.one("data_card"), "card.json"), inputs.one("converse").metrics
    train = max(card["train_documents"], 1)
    counted = [
        ("empty documents that are left out", card["skipped_documents"], ""),
        ("exact copies of earlier documents", card["duplicates"], f" ({card['duplicates'] / train:.2%})"),
        ("held-out documents that are also in the training text, so that the bits are too low",
         card["validation_in_training"], ""),
        ("conversations that were skipped", chats.get("train_skipped", 0), ""),
        ("conversations that were cut at the end of a row", chats.get("train_cut", 0), ""),
        ("files of conversations that were ignored", chats.get("train_ignored_files", 0), ""),
        ("questions that were skipped", chats.get("questions_skipped", 0), ""),
    ]  # fmt: skip
    found = [f"{what[0].upper()}{what[1:]}: {count:,}{share}." for what, count, share in counted if count]
    for share, what in ((card["cropped_share"], "cropped by packing"), (card["padded_share"], "padding")):
        if share > 0:
            found.append(f"{share:.3%} of the tokens are {what}.")
    return found


def _answers(tasks: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name, task in tasks.items():
        whole = task.get("answers", task["questions"])
        if task.get("truncated"):
            found.append(f"{readable(name)}: {task['truncated']:,} of {whole:,} answers were cut off.")
        for reason, count in task.get("no_answer", {}).items():
            found.append(f"{readable(name)}: {count:,} of {whole:,} without an answer ({reason}).")
        if task.get("sandbox", "full") != "full":
            found.append(f"{readable(name)}: programs ran in a weaker sandbox ({task['sandbox']}).")
    return found


def _code(inputs: ReportInputs) -> list[str]:
    producers = [artifact.manifest.producer for each in inputs.stages.values() for artifact in each]
    found = ["Some code was not committed."] if any(each.git_dirty for each in producers) else []
    versions = {each.code_sha256 for each in producers}
    if len(versions) > 1:
        found.append(f"The stages were made by {len(versions)} versions of the code: parts come from earlier runs.")
    return found
