"""Chat data as it is found: a row of any of these forms becomes a conversation. The row's fields say which it is.

{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}          ShareGPT
{"instruction": "…", "input": "…", "output": "…"}                                             Alpaca
{"prompt": "…", "completion": "…"}                                        or `response` instead of `completion`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, checked

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Of ShareGPT's `from`."""
FIELDS = (
    "messages", "conversations", "instruction", "input", "output", "system", "prompt", "completion", "response"
)  # fmt: skip
"""All that is read of a row."""
FORMS = "`messages`, `conversations` (ShareGPT), `instruction` and `output` (Alpaca), or `prompt` and `completion`"


def conversation_of(row: Any, where: str) -> Conversation:
    """The row as a conversation. Raises `BadSource`, naming `where` (file and row) and the field, for anything else."""
    if not isinstance(row, Mapping):
        raise BadSource(f"{where} is not an object with fields.", hint=f"A row has {FORMS}.")
    if row.get("messages") is not None:
        return checked(row, where)
    if row.get("conversations") is not None:
        return checked({"messages": _share_gpt(row["conversations"], where)}, where)
    if row.get("instruction") is not None:
        asked = [_text(row, "instruction", where)]
        if row.get("input"):
            asked.append(_text(row, "input", where))
        return checked({"messages": _turns(row, "\n\n".join(asked), _text(row, "output", where), where)}, where)
    if row.get("prompt") is not None:
        answer = "response" if row.get("completion") is None and "response" in row else "completion"
        asked, said = _text(row, "prompt", where), _text(row, answer, where)
        return checked({"messages": _turns(row, asked, said, where)}, where)
    has = ", ".join(f"`{name}`" for name in row) or "nothing"
    raise BadSource(f"{where} is no conversation: it has {has}.", hint=f"A row has {FORMS}.")


def _share_gpt(turns: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(turns, list) or not turns:
        raise BadSource(f"{where} has no list of turns in `conversations`.")
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or turn.get("from") not in ROLES:
            said = turn.get("from") if isinstance(turn, Mapping) else turn
            raise BadSource(
                f"{where} has the turn {number} in `conversations` from `{said}`.",
                hint=f"It can be from {', '.join(f'`{role}`' for role in ROLES)}.",
            )
        if not isinstance(turn.get("value"), str):
            raise BadSource(f"{where} has a turn {number} in `conversations` whose `value` is no text.")
        messages.append({"role": ROLES[turn["from"]], "content": turn["value"]})
    return messages


def _turns(row: Mapping[str, Any], asked: str, said: str, where: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": _text(row, "system", where)}] if row.get("system") else []
    return [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(row.get(name), str):
        raise BadSource(f"{where} has no text in `{name}`.")
    return row[name]
