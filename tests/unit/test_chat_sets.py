"""Rows laid out like those of public chat sets are read at once, or after one setting that the error spells out."""

from __future__ import annotations

import json

import pytest

from nanochat.errors import BadSource
from nanochat.tasks.chat_rows import conversations_of
from nanochat.tasks.fields import Counts, FieldRules

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}
WILD = {
    "country": "France", "created": None, "hashed_ip": "ab", "header": {"accept-language": "fr"}, "language": "French",
    "openai_id": "x", "redacted": False, "state": "", "temperature": 1.0, "timestamp": 1.0, "token_counter": 3,
    "top_p": 1.0, "toxic": False, "turn_identifier": 1,
}  # fmt: skip
AT_ONCE = {
    "Dolly": {"instruction": "Hi", "context": "", "response": "Hello!", "category": "open_qa"},
    "LMSYS": {
        "conversation_id": "a", "model": "m", "conversation": [USER, ASSISTANT], "turn": 1, "language": "English",
        "openai_moderation": [{"flagged": False}], "redacted": False,
    },
    "WildChat": {
        "conversation_hash": "a", "model": "m", "conversation": [{**USER, **WILD}, {**ASSISTANT, **WILD}], "turn": 1,
        "openai_moderation": [{}], "detoxify_moderation": [{"toxicity": 0.1}], "toxic": False, "hashed_ip": "ab",
    },
    "UltraChat": {"prompt": "Hi ", "prompt_id": "a", "messages": [USER, ASSISTANT]},
    "Capybara": {"source": "a", "conversation": [{"input": "Hi", "output": "Hello!"}]},
    "SlimOrca": {"conversations": [{**HUMAN, "weight": 0.0}, {**GPT, "weight": 1.0}]},
    "OpenOrca": {"id": "niv.1", "system_prompt": "", "question": "Hi", "response": "Hello!"},
    "smol-magpie": {
        "messages": [USER, ASSISTANT], "category": "a", "difficulty": "easy", "quality": "good",
        "reward_model_score": 0.5, "conversation_tokens": 9,
    },
    "Alpaca": {"instruction": "Hi", "input": "", "output": "Hello!", "text": "Below: ### Hi ### Hello!"},
    "fine-tuning": {"messages": [USER, {**ASSISTANT, "weight": 1}], "tools": [], "parallel_tool_calls": False},
}  # fmt: skip
AFTER_ONE_STEP = {
    "OpenHermes": (
        {
            "conversations": [HUMAN, GPT], "id": "a", "source": "b", "category": "c", "skip_prompt_formatting": False,
            "idx": 3, "hash": "d", "avatarUrl": "e", "views": 7, "system_prompt": None, "custom_instruction": False,
        },
        {"custom_instruction"},
    ),
    "Magpie": (
        {
            "uuid": "a", "model": "m", "gen_input_configs": {"top_p": 1.0}, "instruction": "Hi", "response": "Hello!",
            "conversations": [HUMAN, GPT], "task_category": "a", "difficulty_generator": "m", "knowledge": "b",
            "input_quality": "good", "quality_explanation": "c", "instruct_reward": 0.5, "min_similar_uuid": "d",
        },
        {"gen_input_configs", "knowledge", "input_quality", "quality_explanation", "instruct_reward"},
    ),
    "MetaMath": (
        {"type": "a", "query": "Hi", "original_question": "Hm", "response": "Hello!"},
        {"original_question"},
    ),
    "UltraFeedback": (
        {
            "prompt": "Hi", "prompt_id": "a", "messages": [USER, ASSISTANT], "chosen": [USER, ASSISTANT],
            "rejected": [USER, ASSISTANT], "score_chosen": 1.0, "score_rejected": 0.5,
        },
        {"chosen", "rejected", "score_chosen", "score_rejected"},
    ),
    "Nemotron": (
        {
            "input": [USER], "output": "Hello!", "category": "a", "license": "b", "reasoning": "off", "version": "v1",
            "generator": "c", "used_in_training": "yes", "system_prompt": "",
        },
        {"reasoning", "used_in_training"},
    ),
}  # fmt: skip


def read(row, ignored=()):
    return list(conversations_of([("`a.jsonl`, line 1,", row)], FieldRules(Counts(), ignored)))


@pytest.mark.parametrize("name", AT_ONCE)
def test_rows_of_a_public_set_are_read_at_once(name):
    assert read(AT_ONCE[name]) == [{"messages": [USER, ASSISTANT]}]


@pytest.mark.parametrize("name", AFTER_ONE_STEP)
def test_rows_of_a_public_set_are_read_after_one_step(name):
    row, unread = AFTER_ONE_STEP[name]
    with pytest.raises(BadSource) as error:
        read(row)
    hint = error.value.hint
    setting = json.loads("{" + hint[hint.index('"ignore_fields"') : hint.rindex("]") + 1] + "}")
    assert set(setting["ignore_fields"]) == unread
    assert read(row, setting["ignore_fields"]) == [{"messages": [USER, ASSISTANT]}]
