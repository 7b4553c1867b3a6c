"""Fields of chat data that are not part of the conversation: which are ignored and which are refused.

A field is ignored and counted if it is `NEUTRAL`, if it only repeats a text of the conversation, or if the user listed
it in `ignore_fields`. Any other field with a value is refused, with the reason if its meaning is known.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from nanochat.errors import BadSource

NEUTRAL = frozenset((
    "id", "idx", "index", "hash", "hashed_ip", "row", "num", "sha256", "turn", "turn_identifier", "uuid", "version",
    "annotator", "author", "dataset", "dataset_name", "filename", "generator", "header", "license", "line", "model",
    "model_name", "origin", "original_index", "source", "sources", "subset", "url", "user_name", "username",
    "city", "country", "created", "date", "lang", "language", "languages", "state", "time", "timestamp", "updated",
    "category", "categories", "domain", "intent", "subject", "tag", "tags", "task", "task_name", "task_type", "title",
    "topic", "full_topic", "type",
    "complexity", "difficulty", "length", "moderation", "openai_moderation", "quality", "rating", "redacted", "score",
    "scores", "status", "token_count", "toxic", "toxicity", "views",
    "avatarurl", "info", "meta", "metadata", "skip_prompt_formatting",
    "max_tokens", "seed", "system_fingerprint", "temperature", "token_counter", "top_k", "top_p", "usage",
))  # fmt: skip
"""Ids, origin, dates, subjects, ratings and sampling parameters of a row or message; in lower case."""
NEUTRAL_PATTERN = re.compile(
    r"_.*|(num|n)_.*|.*_(id|uuid|hash|url|score|scores|rating|count|at|date|length|tokens|source|model|generator"
    r"|category|moderation)"
)
NO_TOOLS = "tool calls can be rendered only as parts of the type `python` and `python_output`"
NO_MEDIA = "only text can be trained on"
NO_REASONING = "reasoning outside the answer cannot be rendered"
NO_PREFERENCE = "preference data (an answer chosen over another) cannot be used for supervised fine-tuning"
NO_PART = "an answer is trained on as a whole"
REFUSED = {
    **dict.fromkeys(
        ("tools", "functions", "tool_calls", "tool_call", "tool_call_id", "function_call", "tool_choice",
         "parallel_tool_calls", "tool_responses", "documents"),
        NO_TOOLS,
    ),
    **dict.fromkeys(("image", "images", "image_url", "video", "videos", "video_url", "audio",
                   "audios", "audio_url", "input_audio", "file", "files", "attachments"), NO_MEDIA),
    **dict.fromkeys(
        ("reasoning", "reasoning_content", "reasoning_details", "thinking", "thought", "thoughts", "rationale"),
        NO_REASONING,
    ),
    **dict.fromkeys(
        ("chosen", "rejected", "chosen_response", "rejected_response", "rejected_messages", "preference"),
        NO_PREFERENCE,
    ),
    **dict.fromkeys(("label", "kto_tag"), "it may mark an unwanted answer, which cannot be trained on"),
    **dict.fromkeys(
        ("prefix", "suffix", "partial", "train_detail", "mask", "loss_mask", "loss_scale", "labels"), NO_PART
    ),
    "refusal": "a refusal is used only as the `content` of a message",
    "name": "a speaker's name cannot be rendered",
    "chat_template_kwargs": "the chat format has no options",
}  # fmt: skip
"""Fields whose meaning training cannot follow, and why."""
OFF = ("prefix", "partial", "parallel_tool_calls")
"""Flags that have no meaning when they are false."""
UNKNOWN, UNREAD = "unknown meaning", "a text that was not read"


class UnreadFields(BadSource):
    """Fields that were neither read nor may be ignored, each with its reason; the first one is at `where`."""

    def __init__(self, where: str, fields: Mapping[str, str], ignored: Collection[str] = ()) -> None:
        self.where, self.fields = where, dict(fields)
        (first, why), *others = self.fields.items()
        by_reason: dict[str, list[str]] = {}
        for name, reason in others:
            by_reason.setdefault(reason, []).append(name)
        also = "; ".join(f"{names_of(names)}: {reason}" for reason, names in by_reason.items())
        names = sorted({*ignored, *self.fields})
        setting = json.dumps(names, ensure_ascii=not all(name.isprintable() for name in names))
        super().__init__(
            f"{where} has the field `{shown(first)}`: {why}."
            + (f" Other fields that are not read: {also}." if also else ""),
            hint=f'To train without {"them" if others else "it"}, set `"ignore_fields": {setting}` in the item.',
        )


def shown(value: Any, limit: int = 80) -> str:
    """A name or value of the data for a message: shortened, with printable characters only."""
    text = str(value)
    text = text if len(text) <= limit else f"{text[:limit]}…"
    return text if text.isprintable() else ascii(text)[1:-1]


def names_of(fields: Iterable[Any], limit: int = 20) -> str:
    """The first names of fields, for a message."""
    names = [f"`{shown(name)}`" for name in fields]
    return (", ".join(names[:limit]) or "nothing") + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


@dataclass
class Counts:
    """Counts of skipped conversations and ignored data of a mixture."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Reason → conversations."""
    first_skipped: dict[str, str] = field(default_factory=dict)
    """Reason → file and row of the first skipped conversation."""
    ignored_fields: Counter[str] = field(default_factory=Counter)
    """Field → rows or messages that had it."""
    ignored_files: Counter[str] = field(default_factory=Counter)
    """Reason → files of a folder."""
    other_split_rows: int = 0
    """Rows that belong to the other split."""

    def skip(self, reason: str, where: str) -> None:
        """Counts a skipped conversation; `where` is its file and row."""
        self.skipped[reason] += 1
        self.first_skipped.setdefault(reason, where.rstrip(","))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.skipped + other.skipped,
            other.first_skipped | self.first_skipped,
            self.ignored_fields + other.ignored_fields,
            self.ignored_files + other.ignored_files,
            self.other_split_rows + other.other_split_rows,
        )


EMPTY_TEXTS = ("", "[]", "{}", "null")
"""Some tables store lists and objects as JSON text."""


def is_empty(value: Any) -> bool:
    """Whether a field counts as absent: null, blank, or empty."""
    if isinstance(value, str):
        return value.strip() in EMPTY_TEXTS
    return value is None or value in ([], {})


@dataclass(frozen=True)
class FieldRules:
    """The handling of fields that are not read, for one item of a mixture."""

    counts: Counts
    ignored: Collection[str] = ()
    """Names that the user listed in `ignore_fields`."""

    def without_ignored(self, fields: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """The fields without those that the user ignores, which are counted."""
        if not self.ignored:
            return fields
        self.counts.ignored_fields.update(name for name in self.ignored if not is_empty(fields.get(name)))
        return {name: value for name, value in fields.items() if name not in self.ignored}

    def check_rest(
        self,
        fields: Mapping[Any, Any],
        where: str,
        texts: Callable[[], Sequence[str]] = tuple,
        known: Collection[str] = (),
    ) -> None:
        """Counts the fields that may be ignored, and raises `UnreadFields` if there are others.

        `texts` returns the texts that were read from other fields; `known` are the fields that would be read in a row
        of another form.
        """
        unread: dict[str, str] = {}
        for name, value in fields.items():
            if is_empty(value):
                continue
            if is_neutral(name):
                self.counts.ignored_fields[shown(name)] += 1
                continue
            low = name.lower()
            if value is False and low in OFF:
                continue
            if low not in REFUSED and _repeats(value, texts(), whole=name == "text", part=name in known):
                self.counts.ignored_fields[shown(name)] += 1
            else:
                unread[name] = REFUSED.get(low, UNREAD if name in known else UNKNOWN)
        if unread:
            raise UnreadFields(where, unread, self.ignored)


@lru_cache(maxsize=1000)
def is_neutral(name: str) -> bool:
    """Whether a field of this name is ignored, whatever its value."""
    low = name.lower()
    return low not in REFUSED and (low in NEUTRAL or NEUTRAL_PATTERN.fullmatch(low) is not None)


def _repeats(value: Any, read: Sequence[str], *, whole: bool, part: bool) -> bool:
    """Whether a field repeats one of the texts that were read.

    With `part`, also the beginning or end of one, such as an `instruction` beside messages. With `whole`, also all of
    them, such as the `text` of the Alpaca data.
    """
    if not isinstance(value, str) or not read:
        return False
    text, texts = _spaced(value), [_spaced(one) for one in read]
    if any(text == one or (part and (one.startswith(text) or one.endswith(text))) for one in texts):
        return True
    return whole and all(one.strip() in text for one in texts)


def _spaced(text: str) -> str:
    """The text with one space around every word, so that only whole words match."""
    return f" {' '.join(text.split())} "
