"""The exported network computes what ours computes: prefill, decode, padding, beams, past the window."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from nanochat.export import config_files
from nanochat.inference.engine import Engine
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model import fused, gpt
from tests.export.models import SWITCHES, Exported, T, export_random, greedy, random_ids, tokenizer

TOLERANCE = 1e-5
LENGTH = 2 * T + 30
"""Beyond two windows, and beyond the context of the model."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Everything switched on, with grouped queries."""
    return export_random(tmp_path_factory.mktemp("exported"), queries_per_kv_head=2)


@pytest.fixture(scope="module")
def theirs(exported: Exported) -> Any:
    return exported.load()


@torch.no_grad()
def logits_of_ours(exported: Exported, ids: Tensor) -> Tensor:
    return exported.ours(ids)


@torch.no_grad()
def in_steps(model: Any, ids: Tensor, cache: Any, steps: list[int], **arguments: Any) -> Tensor:
    """Logits of the ids, which the model gets in pieces of these lengths, with a cache."""
    found, start = [], 0
    for step in steps:
        given = {name: values[:, : start + step] for name, values in arguments.items()}
        output = model(ids[:, start : start + step], cache=cache, use_cache=True, **given)
        found.append(output.logits)
        start += step
    assert start == ids.shape[1]
    return torch.cat(found, 1)


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", SWITCHES)
def test_logits_of_every_switch(name: str, tmp_path: Path) -> None:
    made = export_random(tmp_path, **SWITCHES[name])
    model, ids = made.load(), random_ids(2, LENGTH)
    expected = logits_of_ours(made, ids)
    assert expected.std() > 0.3
    with torch.no_grad():
        close(model(ids).logits, expected)
    close(in_steps(model, ids, DynamicCache(config=model.config), [T, 1, 1, 7, LENGTH - T - 9]), expected)


def test_logits_of_a_context_that_is_shorter_than_a_window(tmp_path: Path) -> None:
    made = export_random(tmp_path, sequence_len=32)
    ids = random_ids(1, 90)
    with torch.no_grad():
        close(made.load()(ids).logits, logits_of_ours(made, ids))


@pytest.mark.parametrize(
    "steps", [[*[1] * 150, LENGTH - 150], [220, *[1] * 60, LENGTH - 280], [129, 128, 1, 100, LENGTH - 358]]
)
@pytest.mark.parametrize("kind", ["dynamic", "dynamic without config", "static"])
def test_logits_with_a_cache(kind: str, steps: list[int], exported: Exported, theirs: Any) -> None:
    caches = {
        "dynamic": lambda: DynamicCache(config=theirs.config),
        "dynamic without config": DynamicCache,
        "static": lambda: StaticCache(config=theirs.config, max_cache_len=LENGTH + 5),
    }
    ids = random_ids(3, LENGTH)
    close(in_steps(theirs, ids, caches[kind](), steps), logits_of_ours(exported, ids))


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_logits_with_padding_on_the_left(static: bool, positions: bool, exported: Exported, theirs: Any) -> None:
    """Rows of different lengths, each equal to the row alone; position ids are given, or follow from the mask."""
    lengths = [LENGTH, LENGTH - 1, 200, 3]
    ids, mask = random_ids(4, LENGTH), torch.zeros(4, LENGTH, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, LENGTH - length :] = 1
    cache = StaticCache(theirs.config, max_cache_len=LENGTH) if static else DynamicCache(config=theirs.config)
    found, start = [], 0
    with torch.no_grad():
        for stop in (LENGTH - 2, LENGTH - 1, LENGTH):
            extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, start:stop]} if positions else {}
            found.append(theirs(ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache, **extra).logits)
            start = stop
    logits = torch.cat(found, 1)
    for row, length in enumerate(lengths):
        close(logits[row, -length:], logits_of_ours(exported, ids[row : row + 1, -length:])[0])


def test_the_cache_is_reordered_repeated_selected_and_cropped(exported: Exported, theirs: Any) -> None:
    """As beams, several answers to a prompt, and drafts need it: smear's previous token goes with its row."""
    ids, cache = random_ids(3, 100), DynamicCache(config=theirs.config)
    in_steps(theirs, ids, cache, [100])
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    rows = ids[[2, 0, 0]]
    cache.batch_repeat_interleave(2)
    rows = rows.repeat_interleave(2, 0)
    cache.batch_select_indices(torch.tensor([5, 0, 1]))
    rows = rows[[5, 0, 1]]
    cache.crop(-40)
    rows = torch.cat([rows[:, :60], random_ids(3, 2, seed=9)], 1)
    with torch.no_grad():
        logits = theirs(rows[:, 60:], cache=cache).logits
    close(logits, logits_of_ours(exported, rows)[:, 60:])


def test_a_cache_that_was_reset_is_as_new(exported: Exported, theirs: Any) -> None:
    ids, cache = random_ids(2, 40), StaticCache(theirs.config, max_cache_len=50)
    in_steps(theirs, random_ids(2, 50, seed=5), cache, [50])
    cache.reset()
    close(in_steps(theirs, ids, cache, [30, 10]), logits_of_ours(exported, ids))


PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 230, 1)]


def generate(model: Any, prompts: list[list[int]], **arguments: Any) -> list[list[int]]:
    """The new ids of each prompt, padded on the left; no answer ends early."""
    longest, pad = max(map(len, prompts)), tokenizer().bos
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"max_new_tokens": 40, "eos_token_id": None, "pad_token_id": pad, "do_sample": False, **arguments}
    found = model.generate(ids, attention_mask=mask, **settings)
    return found[:, longest:].tolist()


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_greedy_answers_are_ours(cache: str, exported: Exported, theirs: Any) -> None:
    how = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    assert generate(theirs, PROMPTS, **how) == [greedy(exported.ours, prompt, 40) for prompt in PROMPTS]


def test_greedy_answers_are_those_of_our_engine(exported: Exported, theirs: Any) -> None:
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (4, 150, 200)]
    sampling = SamplingParameters(max_tokens=50, ignore_end=True, calculator=False)
    answers = Engine(exported.ours, tokenizer()).complete([Request(prompt=each, sampling=sampling) for each in prompts])
    assert generate(theirs, prompts, max_new_tokens=50) == [list(answer.ids) for (answer,) in answers]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beams_with_a_cache_are_those_without(cache: str, theirs: Any) -> None:
    beams = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 20}
    how = {"cache_implementation": "static"} if cache == "static" else {}
    assert generate(theirs, PROMPTS, **beams, **how) == generate(theirs, PROMPTS, **beams, use_cache=False)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_samples_with_a_cache_are_those_without(cache: str, theirs: Any) -> None:
    how = {"cache_implementation": "static"} if cache == "static" else {}
    answers = []
    for arguments in (how, {"use_cache": False}):
        torch.manual_seed(3)
        sampling = {"do_sample": True, "temperature": 0.8, "top_k": 20, "num_return_sequences": 3}
        answers.append(generate(theirs, PROMPTS[:1], max_new_tokens=30, **sampling, **arguments))
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]


def test_drafts_that_are_taken_back_change_nothing(exported: Exported, theirs: Any) -> None:
    """Prompt lookup: candidates from the prompt are checked together, and refused ones are cropped from the cache."""
    prompt = PROMPTS[1][:90] + PROMPTS[1][:60]
    found = generate(theirs, [prompt], prompt_lookup_num_tokens=4, max_new_tokens=30)
    assert found == [greedy(exported.ours, prompt, 30)]


def test_answers_end_at_both_end_tokens(exported: Exported, theirs: Any) -> None:
    ends = [tokenizer().special("<|assistant_end|>"), tokenizer().bos]
    settings = theirs.generation_config
    assert (settings.eos_token_id, settings.pad_token_id, settings.bos_token_id) == (ends, ends[1], ends[1])
    answer = generate(theirs, [PROMPTS[0]], eos_token_id=[greedy(exported.ours, PROMPTS[0], 3)[2]])
    assert len(answer[0]) <= 3


@pytest.mark.parametrize("kernel", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_other_kernels_agree(kernel: str, exported: Exported) -> None:
    model, ids = exported.load(attn_implementation=kernel), random_ids(2, LENGTH)
    with torch.no_grad():
        assert (model(ids).logits - logits_of_ours(exported, ids)).abs().max() < 1e-4


def test_attention_weights_and_layers_can_be_recorded(exported: Exported) -> None:
    model, ids = exported.load(attn_implementation="eager"), random_ids(1, 200)
    with torch.no_grad():
        output = model(ids, output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == 4
    assert len(output.hidden_states) >= 4
    seen = output.attentions[0][0, 0, 199] > 0
    assert seen.nonzero().flatten().tolist() == list(range(199 - 128, 200)), "the window, and the token itself"


def test_the_loss_and_its_gradients_are_ours(exported: Exported) -> None:
    """Also with gradient checkpointing, which computes the layers twice."""
    ids = random_ids(2, 150)
    exported.ours.zero_grad()
    loss = exported.ours(ids[:, :-1], ids[:, 1:])
    loss.backward()
    expected = exported.ours.embedding.weight.grad
    assert expected is not None
    for checkpointing in (False, True):
        model = exported.load().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        found = model(ids, labels=ids).loss
        found.backward()
        assert abs(found.item() - loss.item()) < TOLERANCE
        table = model.model.embed_tokens.weight.grad
        assert (table - expected[: len(table)]).abs().max() < TOLERANCE


def test_a_model_in_bf16_has_the_rounded_weights(exported: Exported, tmp_path: Path) -> None:
    rounded = export_random(tmp_path, "bf16", queries_per_kv_head=2)
    model, ids = rounded.load(), random_ids(2, 100)
    assert model.dtype == torch.bfloat16
    head = exported.ours.head.weight.data[: tokenizer().vocab_size]
    assert torch.equal(model.lm_head.weight.data, head.bfloat16())
    with torch.no_grad():
        difference = (model(ids).logits - logits_of_ours(exported, ids)).abs()
    assert difference.mean() < 0.05


def test_it_is_saved_and_loaded_again(exported: Exported, theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "again")
    again = Exported(exported.ours, exported.stored, tmp_path / "again").load()
    ids = random_ids(1, 200)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
    assert again.config.to_diff_dict() == {**theirs.config.to_diff_dict(), **_moved(again)}


def _moved(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.config.to_diff_dict().items() if name in ("auto_map", "dtype")}


def test_a_new_model_begins_with_parts_that_have_no_effect(theirs: Any) -> None:
    fresh = type(theirs)(theirs.config)
    scalars = (fresh.model.smear, fresh.model.backout, fresh.model.embedding_scales)
    assert all(not scalar.any() for scalar in scalars)
    assert fresh.model.residual_scales.tolist() == [1.0] * 4


def test_the_folder_needs_nothing_of_ours(exported: Exported) -> None:
    """Loaded by another process, whose path does not have our package."""
    program = (
        "import sys, torch, transformers\n"
        "assert not any('nanochat' in path for path in sys.path if 'export' not in path)\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "ids = tokenizer('the quick', return_tensors='pt').input_ids\n"
        "print(model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)[0].tolist())\n"
        "assert 'nanochat' not in sys.modules\n"
    )
    kept = {"PATH", "HF_MODULES_CACHE", "HOME"}
    environment = {name: value for name, value in os.environ.items() if name in kept} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(exported.folder)],
        env=environment, cwd=exported.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prompt = [tokenizer().bos, *tokenizer().encode("the quick")]
    assert done.stdout.strip() == str(prompt + greedy(exported.ours, prompt, 5))


def test_servers_that_would_lose_smear_refuse_it(theirs: Any) -> None:
    """vLLM checks this flag; transformers' own paged cache is refused by the network."""
    assert not type(theirs).is_backend_compatible()
    with pytest.raises(ValueError, match="needs the previous token"):
        theirs(random_ids(1, 4), cache=object(), position_ids=torch.arange(4)[None], attention_mask={
            "full_attention": None, "sliding_attention": None,
        })  # fmt: skip


def test_constants_are_those_of_our_network() -> None:
    assert config_files.QK_GAIN == gpt.QK_GAIN
    assert config_files.VALUE_GATE_GAIN == gpt.VALUE_GATE_GAIN
    assert config_files.NORM_EPSILON == fused.NORM_EPSILON
