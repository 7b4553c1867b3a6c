"""Converts rows of chat data to conversations. The fields of a row determine its form.

[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]                     nanochat
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}       OpenAI
{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}           ShareGPT
{"instruction": "…", "input": "…", "output": "…", "history": [["…", "…"]]}                    Alpaca
{"prompt": "…", "completion": "…"}                                   each a text, or a list of messages
{"question": "…", "answer": "…"}
{"conversation": [{"input": "…", "output": "…"}]}                                             Capybara

Every form may have a `system` text beside it. `fields.py` handles all other fields.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from nanochat.errors import BadSource, NanochatError
from nanochat.tasks.conversation import Conversation, Split
from nanochat.tasks.fields import Counts, FieldRules, UnreadFields
from nanochat.tasks.messages import ANSWERS, QUESTIONS, one_system, reason_to_skip
from nanochat.tasks.row_reader import FORMS, LISTS, RowReader

LOOK_AHEAD_ROWS = 10_000
"""Rows that are searched to list all unread fields in one error."""


def conversations_of(
    rows: Iterable[tuple[str, Any]], rules: FieldRules, split: Split = "train"
) -> Iterator[Conversation]:
    """The conversations of rows, each given with its file and row. Raises what `conversation_of` raises."""
    rows = iter(rows)
    for where, row in rows:
        try:
            conversation = conversation_of(row, where, rules, split)
        except UnreadFields as error:
            following = chain([(where, row)], islice(rows, LOOK_AHEAD_ROWS))
            raise _with_all_fields(error, following, rules, split) from error
        if conversation:
            yield conversation


def _with_all_fields(
    error: UnreadFields, rows: Iterable[tuple[str, Any]], rules: FieldRules, split: Split
) -> UnreadFields:
    """The same error with the unread fields of all these rows and their messages."""
    fields = dict(error.fields)
    with suppress(NanochatError):  # other errors are reported once these are resolved
        for where, row in rows:
            while more := _unread_fields(row, where, FieldRules(Counts(), {*rules.ignored, *fields}), split):
                fields |= more
    return UnreadFields(error.where, fields, rules.ignored)


def _unread_fields(row: Any, where: str, rules: FieldRules, split: Split) -> Mapping[str, str]:
    try:
        conversation_of(row, where, rules, split)
    except UnreadFields as error:
        return error.fields
    except BadSource:
        pass
    return {}


def conversation_of(row: Any, where: str, rules: FieldRules, split: Split = "train") -> Conversation | None:
    """The row as a conversation; None, which is counted, if it has nothing to train on.

    Raises `BadSource`, naming `where` (file and row) and the field, for anything that cannot be used.
    """
    if isinstance(row, list):
        row = {"messages": _own_form(row, where)}
    if not isinstance(row, dict):
        raise BadSource(f"{where} is not an object with fields.", hint=f"A row has {FORMS}.")
    reader = RowReader(rules.without_ignored(row), where, rules)
    messages = reader.messages()
    skip = reader.weight() == 0
    reader.check_split(split)
    reader.check_rest(messages)
    messages = one_system(messages)
    if reason := "weight_0" if skip else reason_to_skip(messages):
        rules.counts.skip(reason, where)
        return None
    return {"messages": messages}


def _own_form(row: list[Any], where: str) -> list[Any]:
    """nanochat's own form: the row is the list of messages."""
    if row and isinstance(row[0], Mapping) and row[0].keys() & {*LISTS, *QUESTIONS, *ANSWERS}:
        raise BadSource(
            f"{where} is a list of conversations.", hint="Write one per line, for example with `jq -c '.[]'`."
        )
    return row
