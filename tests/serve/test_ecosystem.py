"""Programs of others against the server, as their users call them: LangChain and lm-evaluation-harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from nanochat.tokenizer.huggingface_format import write_hf
from tests.serve.models import ANSWER, TOKENIZER, chain_model
from tests.serve.servers import Running

pytestmark = pytest.mark.slow

QUESTIONS = [
    {"question": "ab", "choices": ["cde", "Zzz", "~~"], "answer": 0},
    {"question": "xyz", "choices": ["ok ď", "abcd", "ABCD"], "answer": 1},
    {"question": "three words here", "choices": ["a", "b c", "ď😀!"], "answer": 2},
    {"question": "=", "choices": ["bcdea", "ea", "q"], "answer": 0},
]
CONTEXT = "Question: {}\nAnswer:"
TASKS = {
    "letters": """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "words": """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer: a"
doc_to_target: "bcdeab"
generation_kwargs: {until: ["ea"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
EVALUATE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
url, tokenizer = sys.argv[1:]
found = simple_evaluate(
    model="local-completions",
    model_args=dict(
        model="chat/latest", base_url=url + "/v1/completions", tokenizer=tokenizer, num_concurrent=3, max_length=256
    ),
    tasks=["letters", "words"], task_manager=TaskManager(include_path=".", include_defaults=False), bootstrap_iters=0,
)
kept = {
    name: [{"doc": each["doc"], "resps": each["resps"]} for each in samples]
    for name, samples in found["samples"].items()
}
json.dump({"results": found["results"], "samples": kept}, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def harness(server: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What lm-evaluation-harness finds with two tasks of ours. Its tokenizer is our export."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "tokenizer").mkdir()
    write_hf(TOKENIZER, folder / "tokenizer" / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|bos|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "evaluate_model.py").write_text(EVALUATE)
    offline = {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
    }
    done = subprocess.run(
        [sys.executable, "evaluate_model.py", server.address, str(folder / "tokenizer")], cwd=folder, text=True,
        capture_output=True, env={**os.environ, **offline, "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def loglikelihood(context: str, continuation: str) -> float:
    """Of a continuation after BOS and a context, from one plain forward pass, without a cache."""
    start = 1 + len(TOKENIZER.encode(context))
    ids = [TOKENIZER.bos, *TOKENIZER.encode(context + continuation)]
    with torch.no_grad():
        logprobs = chain_model()(torch.tensor([ids]))[0].log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_the_harness_finds_our_log_likelihoods_and_our_score(harness: dict[str, Any]) -> None:
    right = right_per_byte = 0
    for sample in harness["samples"]["letters"]:
        doc = sample["doc"]
        ours = [loglikelihood(CONTEXT.format(doc["question"]), f" {choice}") for choice in doc["choices"]]
        theirs = [float(response[0][0]) for response in sample["resps"]]
        assert theirs == pytest.approx(ours, abs=1e-4)
        right += max(range(3), key=ours.__getitem__) == doc["answer"]
        per_byte = [value / len(choice) for value, choice in zip(ours, doc["choices"], strict=True)]
        right_per_byte += max(range(3), key=per_byte.__getitem__) == doc["answer"]
    results = harness["results"]["letters"]
    assert results["acc,none"] == right / len(QUESTIONS)
    assert results["acc_norm,none"] == right_per_byte / len(QUESTIONS)
    assert 0 < right < len(QUESTIONS), "the questions must tell models apart"


def test_the_harness_gets_greedy_texts_that_end_before_a_stop(harness: dict[str, Any]) -> None:
    assert {sample["resps"][0][0] for sample in harness["samples"]["words"]} == {"bcd"}


class Person(BaseModel):
    """What a structured answer has."""

    name: str
    age: int


@pytest.fixture
def chat(server: Running) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="chat/latest", base_url=f"{server.address}/v1", api_key="none", temperature=0, max_retries=0
    )


def test_langchain_invokes_and_streams(chat: Any) -> None:
    answer = chat.invoke([("system", "Be short."), ("human", "Hi")])
    assert answer.content == ANSWER
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"
    chunks = list(chat.stream("Hi"))
    assert "".join(chunk.content for chunk in chunks) == ANSWER
    assert len(chunks) > 2


def test_langchain_batches(chat: Any) -> None:
    assert [each.content for each in chat.batch(["Hi", "Hello", "Good day"])] == [ANSWER] * 3


@pytest.mark.parametrize("strict", [True, False])
def test_langchain_gets_a_structured_answer(chat: Any, strict: bool) -> None:
    """The model knows no JSON, so the schema bounds what it may write."""
    schema = {
        "title": "Person", "type": "object", "additionalProperties": False, "required": ["name", "age"],
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
    }  # fmt: skip
    structured = chat.with_structured_output(schema, method="json_schema", strict=strict)
    found = Person.model_validate(structured.invoke("Who?"))
    assert len(found.name) <= 5
    assert 0 <= found.age <= 99
