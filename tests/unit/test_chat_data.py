"""Chat data as people have it: every form is read, nothing of a meaning is dropped, what is left out is counted."""

from __future__ import annotations

import json
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.chat import MixtureItem
from nanochat.errors import BadConfig, BadSource
from nanochat.tasks.chat_rows import conversation_of
from nanochat.tasks.fields import Counts, FieldRules
from nanochat.tasks.registry import load_task
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render
from nanochat.world.documents import documents

WHERE = "`own.jsonl`, line 7,"
HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
BOTH = {"messages": [HI, HELLO]}
KIND = {"role": "system", "content": "Be kind."}
AGAIN = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Now too."}]


def messages_of(row, *ignored):
    """The messages of a row; none if it is skipped."""
    conversation = conversation_of(row, WHERE, FieldRules(Counts(), ignored))
    return conversation and conversation["messages"]


def turn(kind, text, **more):
    return {"from": kind, "value": text, **more}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [HI, HELLO]}, [HI, HELLO]),
        ([HI, HELLO], [HI, HELLO]),
        ({"conversations": [turn("human", "Hi"), turn("gpt", "Hello!")]}, [HI, HELLO]),
        ({"conversation": [turn("human", "Hi"), turn("bot", "Hello!")]}, [HI, HELLO]),
        ({"conversations": [HI, HELLO]}, [HI, HELLO]),
        ({"messages": [turn("human", "Hi"), turn("chatgpt", "Hello!")]}, [HI, HELLO]),
        ({"messages": [{"from": "user", "content": "Hi"}, {"role": "model", "value": "Hello!"}]}, [HI, HELLO]),
        ({"messages": [{"role": "Human", "content": "Hi"}, {"role": "Assistant", "content": "Hello!"}]}, [HI, HELLO]),
        ({"messages": [{**HI, "from": None, "value": None}, HELLO], "prompt": None}, [HI, HELLO]),
        ({"messages": [KIND, HI, HELLO, *AGAIN]}, [KIND, HI, HELLO, *AGAIN]),
        ({"messages": [{"role": "developer", "content": "Be kind."}, HI, HELLO]}, [KIND, HI, HELLO]),
        ({"messages": [HI, HELLO, AGAIN[0]]}, [HI, HELLO, AGAIN[0]]),
        ({"instruction": "Hi", "output": "Hello!"}, [HI, HELLO]),
        ({"instruction": "Hi", "input": "", "output": "Hello!"}, [HI, HELLO]),
        ({"instruction": "Hi", "input": None, "output": "Hello!"}, [HI, HELLO]),
        ({"instruction": "", "input": "Hi", "output": "Hello!"}, [HI, HELLO]),
        ({"input": "Hi", "output": "Hello!"}, [HI, HELLO]),
        ({"instruction": "Add.", "input": "1 2", "output": "3"},
         [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]),
        ({"instruction": "Add.", "context": "1 2", "response": "3", "category": "sums"},
         [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]),
        ({"prompt": "Hi", "completion": "Hello!"}, [HI, HELLO]),
        ({"prompt": "Hi", "response": "Hello!", "completion": None}, [HI, HELLO]),
        ({"question": "Hi", "answer": "Hello!"}, [HI, HELLO]),
        ({"question": "Hi", "response": "Hello!", "system_prompt": "Be kind."}, [KIND, HI, HELLO]),
        ({"prompt": [HI], "completion": [HELLO]}, [HI, HELLO]),
        ({"prompt": [KIND, HI], "completion": "Hello!"}, [KIND, HI, HELLO]),
        ({"prompt": "Hi", "completion": [HELLO]}, [HI, HELLO]),
        ({"question": [turn("human", "Hi")], "answer": [HELLO]}, [HI, HELLO]),
        ({"prompt": HI, "completion": HELLO}, [HI, HELLO]),
        ({"input": [HI], "output": "Hello!"}, [HI, HELLO]),
        ({"input": [KIND, HI], "output": [HELLO]}, [KIND, HI, HELLO]),
        ({"prompt": [{"type": "text", "text": "Hi"}], "completion": "Hello!"}, [HI, HELLO]),
        ({"conversation": [{"input": "Hi", "output": "Hello!"}, {"input": "And now?", "output": "Now too."}]},
         [HI, HELLO, *AGAIN]),
        ({"messages": [{"role": " User", "content": "Hi"}, {"role": "ai", "content": "Hello!"}]}, [HI, HELLO]),
    ],
)  # fmt: skip
def test_every_form_is_read(row, messages):
    assert messages_of(row) == messages


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"system": "Be kind.", "messages": [HI, HELLO]}, [KIND, HI, HELLO]),
        ({"system": "Be kind.", "messages": [KIND, HI, HELLO]}, [KIND, HI, HELLO]),
        ({"system": "Be kind.", "conversations": [turn("human", "Hi"), turn("gpt", "Hello!")]}, [KIND, HI, HELLO]),
        ({"system_prompt": "Be kind.", "instruction": "Hi", "output": "Hello!"}, [KIND, HI, HELLO]),
        ({"system": "Be kind.", "prompt": [HI], "completion": [HELLO]}, [KIND, HI, HELLO]),
        ({"messages": [KIND, {"role": "developer", "content": "Be brief."}, HI, HELLO]},
         [{"role": "system", "content": "Be kind.\n\nBe brief."}, HI, HELLO]),
        ({"instruction": "And now?", "output": "Now too.", "history": [["Hi", "Hello!"]]}, [HI, HELLO, *AGAIN]),
        ({"instruction": "And now?", "output": "Now too.", "system": "Be kind.", "history": [HI, HELLO]},
         [KIND, HI, HELLO, *AGAIN]),
        ({"system": "Be kind.\n", "messages": [KIND, HI, HELLO]}, [KIND, HI, HELLO]),
        ({"system": [{"type": "text", "text": "Be kind."}], "messages": [HI, HELLO]}, [KIND, HI, HELLO]),
        ({"system": [{"text": "Be kind."}], "messages": [{**HI, "content": [{"text": "Hi"}]}, HELLO]},
         [KIND, HI, HELLO]),
        ({"instruction": "And now?", "output": "Now too.", "history": [{"instruction": "Hi", "output": "Hello!"}]},
         [HI, HELLO, *AGAIN]),
        ({"messages": [HI, {**HELLO, "weight": 0}, *AGAIN]}, [HI, {**HELLO, "learn": False}, *AGAIN]),
        ({"messages": [HI, {**HELLO, "train": False}, *AGAIN]}, [HI, {**HELLO, "learn": False}, *AGAIN]),
        ({"messages": [HI, {**HELLO, "loss": 1, "weight": 1.0}]}, [HI, HELLO]),
        ({"conversations": [turn("human", "Hi", weight=0.0), turn("gpt", "Hello!", weight=1.0)]}, [HI, HELLO]),
        ({**BOTH, "conversations": [turn("human", "Hi"), turn("gpt", "Hello!")]}, [HI, HELLO]),
        ({"prompt": [HI, HELLO, AGAIN[0]], "completion": [AGAIN[1]]}, [HI, {**HELLO, "learn": False}, *AGAIN]),
        ({"messages": [{**HI, "content": [{"type": "text", "text": "H"}, {"type": "input_text", "text": "i"}]}, HELLO]},
         [HI, HELLO]),
        ({"messages": [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, HI, HELLO]},
         [KIND, HI, HELLO]),
        ({"messages": [HI, {"role": "assistant", "content": [{"type": "text", "text": "Hello!", "image_url": None}]}]},
         [HI, {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]}]),
    ],
)  # fmt: skip
def test_what_has_a_meaning_is_honoured(row, messages):
    assert messages_of(row) == messages


CALL = [{"type": "function", "function": {"name": "sum", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**BOTH, "tools": CALL}, "has the field `tools`: tool calls"),
        ({**BOTH, "functions": CALL}, "`functions`"),
        ({"messages": [HI, {"role": "assistant", "content": "", "tool_calls": CALL}]},
         "message 1 of `messages` has the field `tool_calls`: tool calls"),
        ({"messages": [HI, {"role": "assistant", "content": None, "function_call": CALL[0]}]}, "`function_call`"),
        ({"messages": [HI, {"role": "assistant", "content": "", "tool_calls": CALL}, {"role": "tool", "content": "3"}]},
         "tool_calls"),
        ({"messages": [HI, {"role": "tool", "content": "3"}, HELLO]}, "message 1 of `messages` is from `tool`: tool"),
        ({"conversations": [turn("observation", "3")]}, "message 0 of `conversations` is from `observation`: tool"),
        ({"messages": [HI, {"role": "robot", "content": "3"}]}, "from `robot`, which is not a known role"),
        ({"messages": [HI, {"role": 3, "content": "3"}]}, "from `3`, which is not a known role"),
        ({"messages": [HI, {"content": "3"}]}, "message 1 of `messages` has no `role`; it has `content`"),
        ({"messages": [HI, {"role": None, "content": "3"}]}, "message 1 of `messages` has no role"),
        ({"messages": [HI, {"role": "assistant"}]}, "message 1 of `messages` has no `content`"),
        ({"messages": [HI, {"type": "ai", "data": {}}]}, "has no `role`; it has `type`, `data`"),
        ({"messages": [{**HI, "name": "Mira"}, HELLO]}, "message 0 of `messages` has the field `name`"),
        ({"messages": [HI, {**HELLO, "reasoning_content": "hm"}]}, "`reasoning_content`"),
        ({"messages": [HI, {**HELLO, "thinking": "hm"}]}, "`thinking`"),
        ({"messages": [HI, {**HELLO, "refusal": "No."}]}, "`refusal`"),
        ({"messages": [HI, {**HELLO, "audio": {"id": "x"}}]}, "`audio`: only text"),
        ({"messages": [HI, {**HELLO, "prefix": True}]}, "`prefix`"),
        ({"messages": [HI, {**HELLO, "weight": 0.5}]}, "`weight` 0.5, which is neither 0 nor 1"),
        ({"messages": [HI, {**HELLO, "weight": 1, "train": False}]}, "`weight` and `train`, which differ"),
        ({"messages": [{**HI, "train": True}, HELLO]}, "message 0 .* only the assistant's messages are trained on"),
        ({"messages": [HI, {**HELLO, "train_detail": [{"begin_offset": 0}]}]}, "`train_detail`"),
        ({"messages": [HI, {**HELLO, "mood": "happy"}]}, "`mood`: unknown meaning"),
        ({**BOTH, "weight": 0.5}, "the `weight` 0.5"),
        ({**BOTH, "mood": "happy"}, "line 7, has the field `mood`: unknown meaning"),
        ({"messages": [{**HI, "text": "Hi there"}, HELLO]}, "message 0 of `messages` has the field `text`"),
        ({**BOTH, "text": "Hi and more"}, "has the field `text`"),
        ({**BOTH, "split": ["test"]}, "has the field `split`: unknown meaning"),
        ({**BOTH, "split": "test"}, "belongs to the split `test`"),
        ({**BOTH, "images": ["a.png"]}, "`images`: only text"),
        ({**BOTH, "chat_template_kwargs": {"x": 1}}, "`chat_template_kwargs`"),
        ({**BOTH, "history": [["a", "b"]]}, "`history`"),
        ({**BOTH, "prompt": "Something else"}, "`prompt`: a text that was not read"),
        ({"messages": [{**HI, "content": "Hide"}, HELLO], "prompt": "Hi"}, "`prompt`: a text that was not read"),
        ({**BOTH, "conversations": [HI, HELLO, *AGAIN]}, "`messages` and `conversations`, which differ"),
        ({**BOTH, "system": 0}, "no text in `system`"),
        ({"messages": [KIND, HI, HELLO], "system": "Be brief."}, "a system text beside its messages"),
        ({"messages": [{**HI, "value": "Hello"}, HELLO]}, "`content` and `value`, which differ"),
        ({"messages": [{**HI, "from": "gpt"}, HELLO]}, "`role` and `from`, which differ"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HELLO]},
         "part of the type `image_url`: only text"),
        ({"messages": [HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]}, "`tool_use`: tool"),
        ({"messages": [HI, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]}, "`thinking`"),
        ({"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}, HELLO]}, "type `python`"),
        ({"messages": [{"role": "user", "content": ["Hi"]}, HELLO]}, "a part that is not"),
        ({"messages": [{"role": "user", "content": 3}, HELLO]}, "message 0 of `messages` has no text in its content"),
        ({"messages": [{"role": "user", "content": {"text": "Hi"}}, HELLO]}, "no text in its content"),
        ({"messages": [{"role": "user", "content": "\ud800"}, HELLO]}, "surrogate"),
        ({"messages": "Hi"}, "no list of messages in `messages`, but a text"),
        ({"messages": {"role": ["user"]}}, "no list of messages in `messages`, but an object with `role`"),
        ({"messages": ["Hi", "Hello!"]}, "message 0 of `messages` is not an object"),
        ({"instruction": "Hi", "input": 0, "output": "3"}, "no text in `input`"),
        ({"instruction": "Hi", "input": False, "output": "3"}, "no text in `input`"),
        ({"instruction": "Hi", "output": 3}, "no text in `output`"),
        ({"instruction": "Hi", "input": "you"}, "has no `output`: it has `instruction`, `input`"),
        ({"prompt": "Hi"}, "has no `completion`: it has `prompt`"),
        ({"query": "Hi", "answers": "[]"}, "has no `answer`: it has `query`, `answers`"),
        ({"prompt": {"role": "user", "text": "Hi"}, "completion": "Hello!"}, "in `prompt`, but an object with `role`"),
        ({"prompt": {"0": "Hi"}, "completion": {"0": "Hello!"}}, "no text in `prompt`, but an object with `0`"),
        ({"conversation": [{"input": "Hi", "output": "Hello!", "mood": "x"}]}, "message 0 .* the field `mood`"),
        ({"conversation": [{"input": "Hi", "answers": "Hello!"}]}, "no `role`; it has `input`, `answers`"),
        ({"question": "Hi", "answer": ["Hello!"]}, "message 0 of `answer` is not an object"),
        ({"question": "Hi", "answer": "Hello!", "response": "Good day"}, "`response` and `answer`, which differ"),
        ({"instruction": "Hi", "output": "Hello!", "history": "Hi"}, "no list of turns in `history`"),
        ({"instruction": "Hi", "output": "Hello!", "history": [["Hi"]]}, "turn 0 in `history`"),
        ({"instruction": "Hi", "output": "Hello!", "history": [["Hi", 3]]}, "no text in `history`, but 3"),
        ({"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}, "`chosen`: preference data"),
        ({"chosen": [HI, HELLO], "rejected": [HI, HELLO]}, "`chosen`: preference data"),
        ({"prompt": "Hi", "completion": "Hello!", "label": False}, "`label`: it may mark"),
        ({"text": "Hello", "id": 3}, "is not a conversation: it has `text`, `id`"),
        ({}, "is not a conversation: it has nothing"),
        ([BOTH, BOTH], "is a list of conversations"),
        ({"\ufeffprompt": "Hi", "completion": "Hello!"}, r"it has `\\ufeffprompt`, `completion`"),
        ({**BOTH, "\ud800": 1}, r"has the field `\\ud800`: unknown meaning"),
        ({"messages": [HI, {"role": 99 * "long", "content": "3"}]}, "from `longlong[^`]{60,80}…`, which is not a"),
        ({**BOTH, "conversations": [turn("human", "Hi"), turn("gpt", "No.")]}, "`messages` and `conversations`, which"),
        ("Hi", "is not an object"),
        (None, "is not an object"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_with_its_place(row, expected):
    with pytest.raises(BadSource, match=expected) as error:
        messages_of(row)
    assert str(error.value).startswith(WHERE)
    assert error.value.hint
    str(error.value).encode()


@pytest.mark.parametrize(
    ("row", "ignored"),
    [
        ({**BOTH, "id": 3, "source": "here", "prompt_id": "x"}, ["id", "prompt_id", "source"]),
        ({**BOTH, "score": 0.0, "redacted": False, "meta": {"a": 1}}, ["meta", "redacted", "score"]),
        ({"messages": [{**HI, "timestamp": 3}, {**HELLO, "timestamp": 4, "name": None}]}, ["timestamp", "timestamp"]),
        ({**BOTH, "tools": None, "functions": [], "tool_choice": "", "mood": None}, []),
        ({**BOTH, "tools": "[]"}, []),
        ({"messages": [HI, {**HELLO, "tool_calls": [], "prefix": False, "refusal": None}]}, []),
        ({**BOTH, "prompt": "Hi"}, ["prompt"]),
        ({**BOTH, "prompt": "Hi\n"}, ["prompt"]),
        ({"messages": [{**HI, "content": "Add.\n1 2"}, HELLO], "instruction": "Add.", "input": "1 2"},
         ["input", "instruction"]),
        ({"messages": [HI, {**HELLO, "temperature": 1.0, "top_p": 1.0}]}, ["temperature", "top_p"]),
        ({**BOTH, "tools": "null", "parallel_tool_calls": False}, []),
        ({**BOTH, "text": "Hi"}, ["text"]),
        ({**BOTH, "split": "train_sft"}, []),
        ({"instruction": "Add.", "input": "1 2", "output": "3", "text": "### Add.\n### 1 2\n### 3"}, ["text"]),
        ({**BOTH, "weight": None}, []),
    ],
)  # fmt: skip
def test_fields_without_meaning_are_ignored_and_counted(row, ignored):
    counts = Counts()
    assert conversation_of(row, WHERE, FieldRules(counts))
    assert sorted(counts.ignored_fields.elements()) == ignored


def test_a_field_is_ignored_when_the_user_lists_it(tmp_path):
    row = {"messages": [HI, {**HELLO, "thinking": "hm", "tool_calls": CALL}], "tools": CALL, "mood": "happy"}
    file = tmp_path / "own.jsonl"
    file.write_text(2 * f"{json.dumps(row)}\n")
    counts = Counts()
    item = MixtureItem(
        task="conversations", source=str(file), ignore_fields=("thinking", "tool_calls", "tools", "mood")
    )
    assert list(load_task(item, 1, counts).conversations("train")) == [BOTH]
    assert counts.ignored_fields == {"thinking": 1, "tool_calls": 1, "tools": 1, "mood": 1}
    with pytest.raises(BadConfig, match="`gsm8k` has no `ignore_fields`"):
        load_task(MixtureItem(task="gsm8k", ignore_fields=("x",)), 1)


def test_all_fields_that_are_not_read_are_named_at_once_and_the_hint_works(tmp_path):
    rows = [
        BOTH,
        {**BOTH, "mood": "happy"},
        {"messages": [{**HI, "accent": "none"}, HELLO], "tools": CALL, "mood": "sad"},
        {"messages": [HI, {**HELLO, "content": [{"type": "text", "text": "Hello!", "cache": 1}]}], "chosen": [HI]},
        {**BOTH, "split": "test"},
        {**BOTH, "later": "x"},
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    item = MixtureItem(task="conversations", source=str(file), ignore_fields=("split",))
    with pytest.raises(BadSource, match=r"own\.jsonl`, line 2, has the field `mood`: unknown meaning") as error:
        list(load_task(item, 1).conversations("train"))
    assert "`accent`, `cache`, `later`: unknown meaning; `tools`: tool calls" in error.value.message
    hint = error.value.hint
    ignored = json.loads(hint[hint.index("[") : hint.index("]") + 1])
    assert set(ignored) == {"split", "mood", "accent", "tools", "cache", "chosen", "later"}
    counts = Counts()
    item = item.model_copy(update={"ignore_fields": tuple(ignored)})
    assert len(list(load_task(item, 1, counts).conversations("train"))) == 5
    assert counts.ignored_fields == {name: 1 for name in ignored} | {"mood": 2}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Hi", "input": "", "output": ""}, "empty_answer"),
        ({"instruction": "Hi", "output": " \n"}, "empty_answer"),
        ({"messages": [HI, {"role": "assistant", "content": ""}]}, "empty_answer"),
        ({"messages": [HI, {"role": "assistant", "content": [{"type": "text", "text": ""}]}]}, "empty_answer"),
        ({"messages": [HI, {"role": "assistant", "content": ""}, *AGAIN]}, "empty_answer"),
        ({"prompt": [HI], "completion": ""}, "empty_answer"),
        ({"instruction": "", "input": "", "output": "Hello!"}, "empty_question"),
        ({"messages": [{"role": "user", "content": " "}, HELLO]}, "empty_question"),
        ({"messages": [HI, {**HELLO, "weight": 0}]}, "no_answer_to_learn"),
        ({**BOTH, "weight": 0}, "weight_0"),
        ({"messages": [HI, {"role": "assistant", "content": None}]}, "empty_answer"),
        ({"messages": [{"role": "user", "content": None}, HELLO]}, "empty_question"),
        ({"prompt": "Hi", "completion": None}, "empty_answer"),
        ({"prompt": None, "completion": "Hello!"}, "empty_question"),
        ({"prompt": [HI], "completion": []}, "empty_answer"),
        ({"instruction": "Hi", "output": "Hello!", "history": [["Hi", None]]}, "empty_answer"),
        ({"conversation": [{"input": "Hi", "output": None}]}, "empty_answer"),
        ({"messages": []}, "no_messages"),
        ({"messages": None, "id": 3}, "no_messages"),
        ([], "no_messages"),
        ({"messages": [KIND]}, "no_messages"),
        ({"messages": [HI]}, "no_answer"),
        ({"messages": [HI, HI, HELLO]}, "roles_out_of_turn"),
        ({"messages": [HELLO, HI]}, "roles_out_of_turn"),
        ({"messages": [HELLO]}, "roles_out_of_turn"),
        ({"messages": [HI, HELLO, KIND, *AGAIN]}, "roles_out_of_turn"),
        ({"prompt": [HI, HELLO], "completion": "Hello!"}, "roles_out_of_turn"),
    ],
)
def test_conversations_with_nothing_to_learn_are_skipped_and_counted(row, reason):
    counts = Counts()
    assert conversation_of(row, WHERE, FieldRules(counts)) is None
    assert counts.skipped == {reason: 1}
    assert counts.first_skipped == {reason: "`own.jsonl`, line 7"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": ""}, HI, HELLO]},
        {"messages": [{"role": "system", "content": " \n"}, HI, HELLO]},
        {**BOTH, "system": ""},
        {**BOTH, "system": None},
        {"instruction": "Hi", "output": "Hello!", "system": " "},
    ],
)
def test_an_empty_system_message_adds_nothing(row):
    assert messages_of(row) == [HI, HELLO]


FIELDS = ["messages", "conversations", "instruction", "input", "output", "prompt", "completion", "question", "answer"]
FIELDS += ["system", "history", "weight", "split", "x"]
ROLES = [("role", "user"), ("role", "assistant"), ("role", "system"), ("from", "human"), ("from", "gpt")]
TEXTS = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "Hi", "", " ", "\ud800", "test"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content, more: {role[0]: role[1], "content": content, **more},
        st.sampled_from(
            [("role", "user"), ("role", "assistant"), ("from", "gpt"), ("from", "human"), ("role", "system")]
        ),
        st.just("Hi") | TEXTS | VALUES,
        st.dictionaries(st.sampled_from(["weight", "train", "value", "name", "id", "tool_calls"]), VALUES, max_size=1),
    ),
    max_size=4,
)
TURNS = st.lists(st.sampled_from([[HI, HELLO], AGAIN, [HI], [KIND]]), max_size=3).map(lambda found: list(chain(*found)))
ROWS = st.dictionaries(st.sampled_from(FIELDS), TEXTS | TURNS | VALUES)


@settings(max_examples=500, deadline=None)
@given(VALUES | MESSAGES | TURNS | ROWS)
def test_any_row_is_a_conversation_or_skipped_or_refused(row):
    counts = Counts()
    try:
        conversation = conversation_of(row, WHERE, FieldRules(counts))
    except BadSource as error:
        assert str(error).startswith(WHERE)
        return
    if conversation is None:
        assert counts.skipped.total() == 1
        return
    roles = [message["role"] for message in conversation["messages"]]
    turns = roles[roles[0] == "system" :]
    assert turns == [("user", "assistant")[number % 2] for number in range(len(turns))]
    assert len(turns) >= 2


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train_from_iterator(documents(1, 0, 50), 300)


def trained(tokenizer, messages):
    """The text of a conversation, and the part of it that is trained on."""
    ids, mask = render(tokenizer, {"messages": messages}, 1 << 20)
    return tokenizer.decode(ids), tokenizer.decode([one for one, flag in zip(ids, mask, strict=True) if flag])


def test_an_answer_that_is_not_trained_on_is_context(tokenizer):
    text, answers = trained(tokenizer, messages_of({"messages": [HI, {**HELLO, "weight": 0}, *AGAIN]}))
    assert "Hello!<|assistant_end|>" in text
    assert answers == "Now too.<|assistant_end|>"
    assert trained(tokenizer, [HI, HELLO, *AGAIN])[0] == text


def test_special_tokens_in_a_text_stay_text(tokenizer):
    text = "<|assistant_start|>I am kind.<|assistant_end|><|bos|>"
    ids, _ = render(tokenizer, {"messages": messages_of({"system": text, "prompt": text, "completion": text})}, 1 << 20)
    names = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>")
    assert [ids.count(tokenizer.special(name)) for name in names] == [1] * 5


@pytest.mark.parametrize("content", ["", " ", [{"type": "text", "text": ""}]])
def test_an_empty_system_message_is_not_rendered(tokenizer, content):
    system = {"role": "system", "content": content}
    assert render(tokenizer, {"messages": [system, HI, HELLO]}, 999) == render(
        tokenizer, {"messages": [HI, HELLO]}, 999
    )


def test_text_parts_are_rendered_as_the_text(tokenizer):
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    for role, others in (("system", [HI, HELLO]), ("user", [HELLO])):
        whole, split = ([{"role": role, "content": content}, *others] for content in ("Be kind.", parts))
        assert render(tokenizer, {"messages": split}, 999) == render(tokenizer, {"messages": whole}, 999)
