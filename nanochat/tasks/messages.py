"""Converts the messages of chat data, in all their forms, to the messages that are rendered.

The result is an optional system message, then user and assistant in turn. A message has `role`, `content` and, if it is
an answer that is not trained on, `"learn": false`. Content is a text, or in answers a list of parts. A list may also
have pairs of question and answer instead of messages, each `{"input": "…", "output": "…"}`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.errors import BadSource
from nanochat.sources.json_records import check_text, is_valid_text
from nanochat.tasks.conversation import PARTS
from nanochat.tasks.fields import NO_MEDIA, NO_REASONING, NO_TOOLS, FieldRules, is_empty, names_of, shown

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
}
"""Values of `role` and of ShareGPT's `from`, in any case."""
TOOL_ROLES = ("tool", "function", "observation", "tool_call", "tool_response", "function_call", "ipython")
ROLE_FIELDS, CONTENT_FIELDS = ("role", "from"), ("content", "value")
LEARN_FIELDS = ("weight", "train", "training", "trainable", "learn", "loss")
"""1 or true: the answer is trained on; 0 or false: it is not."""
QUESTIONS = ("instruction", "prompt", "question", "query")
ANSWERS = ("output", "completion", "response", "answer")
PAIR_QUESTIONS = ("input", *QUESTIONS)
READ = frozenset((*ROLE_FIELDS, *CONTENT_FIELDS, *LEARN_FIELDS))
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", **{part: part for part in PARTS}}
OTHER_PARTS = {
    **dict.fromkeys(("image", "image_url", "input_image", "audio", "input_audio", "video", "file"), NO_MEDIA),
    **dict.fromkeys(("tool_use", "tool_result", "tool_call", "function_call"), NO_TOOLS),
    **dict.fromkeys(("thinking", "reasoning", "redacted_thinking"), NO_REASONING),
}
LEAVE_OUT = "Remove such conversations from the data."
HINT = 'A conversation is `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`.'

Message = dict[str, Any]


def read_messages(found: Sequence[Any], where: str, name: str, rules: FieldRules) -> list[Message]:
    """The messages in the field `name` of a row; their order is not checked.

    Raises `BadSource`, naming `where` (file and row) and the message, for a message that cannot be used.
    """
    messages: list[Message] = []
    for number, one in enumerate(found):
        if plain := None if rules.ignored else _plain(one):
            messages.append(plain)
            continue
        place = f"{where} message {number} of `{name}`"
        if not isinstance(one, dict):
            raise BadSource(f"{place} is not an object.", hint=HINT)
        fields = rules.without_ignored(one)
        if is_message(fields):
            messages.append(_message(fields, place, rules))
        else:
            messages += _pair(fields, place, rules)
    return messages


def is_message(value: Any) -> bool:
    """Whether a value is an object with a role."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def is_parts(value: Any) -> bool:
    """Whether a value is a list of parts of a text, and not of messages."""
    return isinstance(value, list) and all(
        isinstance(one, Mapping) and ("text" in one or "type" in one) and not is_message(one) for one in value
    )


def _plain(one: Any) -> Message | None:
    """A message with a role and a text only, as most are: a fast path without the rules for other fields."""
    if type(one) is not dict or len(one) != 2:
        return None
    name, text = one.get("role"), one.get("content")
    if name is None and text is None:
        name, text = one.get("from"), one.get("value")
    if type(name) is not str or type(text) is not str or not (text.isascii() or is_valid_text(text)):
        return None
    role = ROLES.get(name)
    return {"role": role, "content": text} if role else None


def _message(fields: Mapping[str, Any], where: str, rules: FieldRules) -> Message:
    name = one_of(fields, ROLE_FIELDS, where)
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        if isinstance(name, str) and name.strip().lower() in TOOL_ROLES:
            raise BadSource(f"{where} is from `{name}`: {NO_TOOLS}.", hint=LEAVE_OUT)
        raise BadSource(
            f"{where} "
            + ("has no role." if is_empty(name) else f"is from `{shown(name)}`, which is not a known role."),
            hint=f"A role is one of {', '.join(f'`{role}`' for role in ROLES)}.",
        )
    rest = {key: value for key, value in fields.items() if key not in READ}
    rules.check_rest(rest, where)  # before the content, which is null beside tool calls
    if "content" not in fields and "value" not in fields:
        raise BadSource(f"{where} has no `content`.", hint=HINT)
    content = read_content(one_of(fields, CONTENT_FIELDS, where), role, where, rules)
    message: Message = {"role": role, "content": content}
    if not _is_trained_on(fields, role, where):
        message["learn"] = False
    return message


def _pair(fields: Mapping[str, Any], where: str, rules: FieldRules) -> list[Message]:
    """A question with its answer, as two messages."""
    if not (fields.keys() & set(PAIR_QUESTIONS) and fields.keys() & set(ANSWERS)):
        raise BadSource(f"{where} has no `role`; it has {names_of(fields)}.", hint=HINT)
    rest = {key: value for key, value in fields.items() if key not in PAIR_QUESTIONS and key not in ANSWERS}
    rules.check_rest(rest, where)
    values = (("user", one_of(fields, PAIR_QUESTIONS, where)), ("assistant", one_of(fields, ANSWERS, where)))
    return [{"role": role, "content": read_content(value, role, where, rules)} for role, value in values]


def one_of(fields: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    """The value of the field among `names` that has one; None if no field exists.

    Raises `BadSource` if two of them have different values.
    """
    found = {name: value for name in names if (value := fields.get(name)) is not None}
    if len(found) < 2:
        return next(iter(found.values()), None)
    filled = {name: value for name, value in found.items() if not is_empty(value)} or found
    values = list(filled.values())
    if any(value != values[0] for value in values):
        raise BadSource(
            f"{where} has {' and '.join(f'`{name}`' for name in filled)}, which differ.",
            hint="Keep one of them, or name the other in the item's `ignore_fields`.",
        )
    return values[0]


def read_content(content: Any, role: str, where: str, rules: FieldRules) -> str | list[dict[str, str]]:
    """A text or, in an answer, parts; null and an empty list are an empty text."""
    if isinstance(content, str):
        return check_text(content, where)
    if content is None or content == []:
        return ""
    if not isinstance(content, list):
        raise BadSource(f"{where} has no text in its content.", hint=HINT)
    parts = [_part(part, where, rules) for part in content]
    if role == "assistant":
        return parts
    if any(part["type"] != "text" for part in parts):
        raise BadSource(
            f"{where} has a part of the type `python`, which only the assistant's messages have.", hint=HINT
        )
    return "".join(part["text"] for part in parts)


def _part(part: Any, where: str, rules: FieldRules) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind in OTHER_PARTS:
        raise BadSource(f"{where} has a part of the type `{kind}`: {OTHER_PARTS[kind]}.", hint=LEAVE_OUT)
    if isinstance(part, Mapping) and kind is None:
        kind = "text"
    if not isinstance(kind, str) or kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise BadSource(f"{where} has a part that is not `type` ({', '.join(PARTS)}) and `text`.", hint=HINT)
    fields = rules.without_ignored(part)
    rules.check_rest({key: value for key, value in fields.items() if key not in ("type", "text")}, where)
    return {"type": TEXT_PARTS[kind], "text": check_text(part["text"], where)}


def _is_trained_on(fields: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether an answer is trained on: yes, unless a flag of the message is 0 or false."""
    flags = {name: value for name in LEARN_FIELDS if (value := fields.get(name)) is not None}
    if not flags:
        return True
    for name, flag in flags.items():
        if not isinstance(flag, bool | int | float) or flag not in (0, 1):
            raise BadSource(
                f"{where} has `{name}` {shown(repr(flag))}, which is neither 0 nor 1.",
                hint=f"Write 0 or 1, or name `{name}` in the item's `ignore_fields` to train on every answer.",
            )
        if flag and role != "assistant":
            raise BadSource(
                f"{where} is from the {role}, and `{name}` is set; only the assistant's messages are trained on.",
                hint=f"Remove it, or name `{name}` in the item's `ignore_fields` if it means nothing in this data.",
            )
    if len(set(map(bool, flags.values()))) > 1:
        raise BadSource(
            f"{where} has {' and '.join(f'`{name}`' for name in flags)}, which differ.",
            hint="Keep one of them, or name the other in the item's `ignore_fields`.",
        )
    return role != "assistant" or all(flags.values())


def one_system(messages: list[Message]) -> list[Message]:
    """The messages with all leading system messages joined into one, or without any if they are empty."""
    if not messages or messages[0]["role"] != "system":
        return messages
    first = next((n for n, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system = "\n\n".join(message["content"] for message in messages[:first] if message["content"].strip())
    return [*([{"role": "system", "content": system}] if system else []), *messages[first:]]


def reason_to_skip(messages: Sequence[Message]) -> str:
    """Why a conversation cannot be trained on; empty if it can. `messages` are the result of `one_system`."""
    system = bool(messages) and messages[0]["role"] == "system"
    turns = messages[system:]
    if not turns:
        return "no_messages"
    reason, trained = "", False
    for number, message in enumerate(turns):
        is_question = number % 2 == 0
        if message["role"] != ("user" if is_question else "assistant"):
            return "roles_out_of_turn"
        learn = not is_question and message.get("learn", True)
        trained = trained or learn
        if (learn or is_question) and not reason and is_blank(message) and not (system and number == 0):
            reason = "empty_question" if is_question else "empty_answer"
    if len(turns) < 2:
        return "no_answer"
    return reason or ("" if trained else "no_answer_to_learn")


def is_blank(message: Message) -> bool:
    """Whether a message has only white space."""
    content = message["content"]
    if isinstance(content, str):
        return not content or content.isspace()
    return not message_text(message).strip()


def message_text(message: Message) -> str:
    """The whole text of a message."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
