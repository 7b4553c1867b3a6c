"""Generation in a batch equals generation one by one, stops where it should, and reckons."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.inference.kv_cache import KVCache
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_merges([])
PROMPTS = [[TOKENIZER.bos, 5, 9, 9, 200], [TOKENIZER.bos], [TOKENIZER.bos, *range(40, 70)]]


def built(sequence_len: int = 256, **options: object) -> GPT:
    """A small model in which nothing is 0, so that nothing hides; some of its layers see a window only."""
    config = ModelConfig.model_validate({"depth": 3, "aspect_ratio": 11, "head_dim": 8} | options)
    model = GPT(Architecture(model=config, vocab_size=TOKENIZER.vocab_size, sequence_len=sequence_len))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def without_cache(model: GPT, prompt: Sequence[int], tokens: int) -> list[int]:
    """The greedy continuation, each token from a pass over everything before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


class Parrot(GPT):
    """Whatever it is given, the token at each position is that of a script."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__(built().architecture)
        self.init_weights(1)
        self.script = list(script)
        self.seen: list[int] = []

    def forward(self, ids_BT: Tensor, targets_BT: Tensor | None = None, **given: object) -> Tensor:
        cache = given["cache"]
        assert isinstance(cache, KVCache)
        self.seen += ids_BT[0].tolist()
        next_T = [self.script[int(cache.positions_B[0]) + t] for t in range(ids_BT.shape[1])]
        cache.advance(ids_BT.shape[1])
        return torch.nn.functional.one_hot(torch.tensor([next_T]), TOKENIZER.vocab_size).float()


def tokens_of(*words: str | bytes) -> list[int]:
    """Ids of texts and of the names of special tokens."""
    return [
        token
        for word in words
        for token in ([TOKENIZER.special(str(word))] if str(word).startswith("<|") else TOKENIZER.encode(str(word)))
    ]


@pytest.mark.parametrize(
    "options", [{}, {"queries_per_kv_head": 5}, {"smear": False}, {"window_pattern": "S"}], ids=str
)
def test_a_batch_of_unequal_prompts_equals_each_alone_without_a_cache(options: dict[str, object]) -> None:
    model = built(**options)
    together = Engine(model, TOKENIZER).generate(PROMPTS, 12, stop=False)
    assert together == [without_cache(model, prompt, 12) for prompt in PROMPTS]


def test_windows_hold_while_decoding() -> None:
    model = built(sequence_len=512, window_pattern="S")
    assert 128 in model.architecture.windows()
    prompts = [[TOKENIZER.bos, *[t % 200 for t in range(180)]], [TOKENIZER.bos, 7]]
    assert Engine(model, TOKENIZER).generate(prompts, 6, stop=False) == [without_cache(model, p, 6) for p in prompts]


def test_streaming_gives_what_generating_gives() -> None:
    engine = Engine(built(), TOKENIZER)
    for temperature, top_k in ((0.0, 0), (1.0, 5)):
        (whole,) = engine.generate(PROMPTS[:1], 20, temperature, top_k, seed=3)
        assert list(engine.stream(PROMPTS[0], 20, temperature, top_k, seed=3)) == whole


def test_the_seed_decides() -> None:
    engine = Engine(built(), TOKENIZER)
    one, same, other = (engine.generate(PROMPTS, 20, 1.0, seed=seed, stop=False) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|bos|>"])
def test_an_answer_ends_before_the_token_that_stops_it(stop: str) -> None:
    model = Parrot(tokens_of("<|user_start|>", "Ada.", stop, "more"))
    assert Engine(model, TOKENIZER).generate([[TOKENIZER.bos, TOKENIZER.bos]], 20) == [tokens_of("Ada.")]
    assert model.seen[2:] == tokens_of("Ada.")  # nothing is computed behind the end


def test_a_row_that_is_done_leaves_the_others_alone() -> None:
    model = built()
    engine = Engine(model, TOKENIZER)
    ends = without_cache(model, PROMPTS[0], 12)[3]
    engine.stops = {ends}
    for answer, prompt in zip(engine.generate(PROMPTS, 12), PROMPTS, strict=True):
        whole = without_cache(model, prompt, 12)
        assert answer == (whole[: whole.index(ends)] if ends in whole else whole)


def test_no_more_tokens_than_requested() -> None:
    engine = Engine(built(), TOKENIZER)
    assert [len(answer) for answer in engine.generate(PROMPTS, 1, stop=False)] == [1, 1, 1]


def test_a_sum_is_reckoned_and_the_result_put_in() -> None:
    requested = tokens_of("<|python_start|>", "12*3", "<|python_end|>")
    # The script does not know the result: where the engine forces tokens, what the model would say is not looked at.
    model = Parrot([*requested, *tokens_of("xxxx"), *tokens_of(" so", "<|assistant_end|>")])
    (answer,) = Engine(model, TOKENIZER).generate([[TOKENIZER.bos]], 40)
    assert answer == [*requested, *tokens_of("<|output_start|>", "36", "<|output_end|>"), *tokens_of(" so")]
    assert model.seen[1:] == answer  # the model was shown the result


@pytest.mark.parametrize("block", ["import os", "", "1/0"])
def test_what_is_no_sum_has_no_result(block: str) -> None:
    output = tokens_of("<|python_start|>", block, "<|python_end|>", "?", "<|assistant_end|>")
    assert Engine(Parrot(output), TOKENIZER).generate([[TOKENIZER.bos]], 40) == [output[:-1]]


def test_an_end_without_a_beginning_is_nothing() -> None:
    output = tokens_of("7", "<|python_end|>", "!", "<|assistant_end|>")
    assert Engine(Parrot(output), TOKENIZER).generate([[TOKENIZER.bos]], 40) == [output[:-1]]


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(BadConfig, match="no tokens"):
        Engine(built(), TOKENIZER).generate([[TOKENIZER.bos], []], 4)
