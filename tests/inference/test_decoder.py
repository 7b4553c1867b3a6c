"""The decoder against the network without a cache, and against itself: bitwise equal however rows are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig
from nanochat.inference.decoder import Decoder, Rows, WeightFormat
from nanochat.inference.native_decoder import NativeDecoder, needed_bytes
from nanochat.inference.torch_decoder import TorchDecoder
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from tests.inference.models import TOKENIZER, built

TOKENS = 300
"""More than two windows of 128, and a ring of 256 columns wraps."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"queries_per_kv_head": 5},
    {"value_embeddings": False},
    {"residual_scalars": False},
    {"smear": False},
    {"backout": False},
    {"logit_softcap": 0.0},
    {"window_pattern": "L"},
    {"depth": 2, "aspect_ratio": 64, "head_dim": 64},
]
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, TOKENIZER.vocab_size, (TOKENS,), generator=GENERATOR).tolist()


@cache
def model_with(options: tuple[tuple[str, Any], ...]) -> GPT:
    return built(512, **dict(options))


def model_of(options: dict[str, Any]) -> GPT:
    return model_with(tuple(options.items()))


@pytest.fixture(params=[NativeDecoder, TorchDecoder])
def make(request: pytest.FixtureRequest) -> Callable[[GPT, int, int], Decoder]:
    return request.param


def added(decoder: Decoder, slot: int, start: int, ids: Sequence[int], previous: int | None) -> Tensor:
    """The outputs of consecutive tokens of a slot, (T, C), in runs that are as long as possible."""
    outputs: list[Tensor] = []
    for at in range(0, len(ids), decoder.longest_run_tokens):
        rows = Rows()
        run = list(ids[at : at + decoder.longest_run_tokens])
        rows.add(slot, start + at, run, ids[at - 1] if at else previous)
        outputs.append(decoder.forward(rows))
    return torch.cat(outputs)


def decode(
    decoder: Decoder, slots: Sequence[int], ids: Sequence[int], positions: Sequence[int], before: Sequence[int]
) -> Tensor:
    """Logits after one more token of each slot, (B, V)."""
    rows = Rows(list(slots), list(positions), list(ids), list(before))
    return decoder.logits(decoder.forward(rows))


def prefilled(decoder: Decoder, slot: int, sizes: Sequence[int], ids: Sequence[int] = IDS) -> Tensor:
    """The outputs of all ids, (T, C), computed in chunks of these sizes, over and over."""
    chunks: list[Tensor] = []
    start = 0
    while start < len(ids):
        stop = min(start + sizes[len(chunks) % len(sizes)], len(ids))
        chunks.append(added(decoder, slot, start, ids[start:stop], ids[start - 1] if start else None))
        start = stop
    return torch.cat(chunks)


def decoded(decoder: Decoder, slots: Sequence[int], starts: Sequence[int], steps: int) -> Tensor:
    """Logits of `steps` tokens of each slot, (steps, B, V), from these positions on, in one batch."""
    logits: list[Tensor] = []
    for step in range(steps):
        positions = [start + step for start in starts]
        ids, previous = [IDS[p] for p in positions], [IDS[p - 1] for p in positions]
        logits.append(decode(decoder, slots, ids, positions, previous))
    return torch.stack(logits)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_prompt_gives_the_logits_of_the_network(
    make: Callable[[GPT, int, int], Decoder], options: dict[str, Any]
) -> None:
    model = model_of(options)
    decoder = make(model, 1, 512)
    with torch.no_grad():
        expected_TV = model(torch.tensor([IDS]))[0]
    torch.testing.assert_close(decoder.logits(prefilled(decoder, 0, [TOKENS])), expected_TV, rtol=0, atol=2e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_chunks_do_not_change_a_bit(make: Callable[[GPT, int, int], Decoder], options: dict[str, Any]) -> None:
    decoder = make(model_of(options), 2, 512)
    whole = prefilled(decoder, 0, [TOKENS])
    for sizes in ([128], [256], [129, 1], [1, 7, 30]):
        assert torch.equal(prefilled(decoder, 1, sizes), whole), sizes


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_decoding_in_any_batch_gives_the_bits_of_the_prompt(
    make: Callable[[GPT, int, int], Decoder], options: dict[str, Any]
) -> None:
    decoder = make(model_of(options), 9, 512)
    expected_TV = decoder.logits(prefilled(decoder, 0, [TOKENS]))
    for slots in ([3], [2, 3], [8, 1, 4, 5, 2], [3, 1, 0, 2], list(range(9))):
        starts = [190 + 7 * row for row in range(len(slots))]
        for slot, start in zip(slots, starts, strict=True):
            prefilled(decoder, slot, [start], IDS[:start])
        logits = decoded(decoder, slots, starts, TOKENS - starts[-1])
        for row, start in enumerate(starts):
            assert torch.equal(logits[:, row], expected_TV[start : start + len(logits)]), (slots, row)


def test_several_tokens_in_a_wrapped_ring_are_a_second_turn(make: Callable[[GPT, int, int], Decoder]) -> None:
    decoder = make(model_of({}), 1, 512)
    whole = prefilled(decoder, 0, [TOKENS])
    prefilled(decoder, 0, [100], IDS[:100])
    decoded(decoder, [0], [100], 160)
    assert torch.equal(added(decoder, 0, 260, IDS[260:], IDS[259]), whole[260:])


def test_a_slot_shows_nothing_of_the_request_before(make: Callable[[GPT, int, int], Decoder]) -> None:
    decoder = make(model_of({}), 1, 512)
    first = prefilled(decoder, 0, [9], IDS[:9])
    prefilled(decoder, 0, [TOKENS], IDS[::-1])
    assert torch.equal(prefilled(decoder, 0, [9], IDS[:9]), first)


@pytest.mark.parametrize("distance", [127, 128, 129])
def test_a_window_of_128_sees_128_tokens_before_the_token(
    make: Callable[[GPT, int, int], Decoder], distance: int
) -> None:
    model = built(512, window_pattern="S", depth=2, smear=False, value_embeddings=False)
    with torch.no_grad():
        model.get_parameter("blocks.1.attention.out.weight").zero_()  # the last layer sees everything
    decoder = make(model, 2, 512)
    at = 200
    other = [*IDS]
    other[at - distance] = (IDS[at - distance] + 1) % TOKENIZER.vocab_size
    seen = not torch.equal(prefilled(decoder, 0, [TOKENS])[at], prefilled(decoder, 1, [TOKENS], other)[at])
    assert seen == (distance <= 128)
    for slot, ids in ((0, IDS), (1, other)):
        prefilled(decoder, slot, [at], ids[:at])
    logits_BV = decode(decoder, [0, 1], [IDS[at]] * 2, [at] * 2, [IDS[at - 1]] * 2)
    assert torch.equal(logits_BV[0], logits_BV[1]) != seen


def test_blocks_continue_in_another_slot(make: Callable[[GPT, int, int], Decoder]) -> None:
    decoder = make(model_of({}), 2, 512)
    whole = prefilled(decoder, 0, [TOKENS])
    blocks = []
    for start in range(0, 272, 16):
        added(decoder, 0, start, IDS[start : start + 16], IDS[start - 1] if start else None)
        blocks.append(decoder.save(0, start, start + 16))
    for number, block in enumerate(blocks):
        decoder.load(1, 16 * number, block)
    assert torch.equal(added(decoder, 1, 272, IDS[272:], IDS[271]), whole[272:])


def test_a_block_across_the_end_of_a_ring(make: Callable[[GPT, int, int], Decoder]) -> None:
    decoder = make(model_of({}), 2, 512)
    whole = prefilled(decoder, 0, [TOKENS])
    prefilled(decoder, 0, [290], IDS[:290])
    prefilled(decoder, 1, [90], IDS[:90])
    decoder.load(1, 90, decoder.save(0, 90, 290))
    assert torch.equal(added(decoder, 1, 290, IDS[290:], IDS[289]), whole[290:])


def test_windows_halve_the_memory_of_a_long_context(make: Callable[[GPT, int, int], Decoder]) -> None:
    config = ModelConfig.model_validate({"depth": 4, "aspect_ratio": 16, "head_dim": 16, "window_pattern": "SSSL"})
    architecture = Architecture(model=config, vocab_size=64, sequence_len=2048)
    model = GPT(architecture)
    model.init_weights(1)
    full = 2 * 4 * 2048 * architecture.kv_width * 4
    assert make(model, 1, 2048).cache_bytes <= 0.5 * full


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_bf16_on_a_gpu_is_near_fp32_on_the_cpu() -> None:
    model = built(512)
    decoder: Decoder = NativeDecoder(model, 1, 512)
    expected_TV = decoder.logits(prefilled(decoder, 0, [TOKENS]))
    decoder = TorchDecoder(model.to("cuda"), 1, 512, "bf16")
    logits_TV = decoder.logits(prefilled(decoder, 0, [100])).cpu()
    torch.testing.assert_close(logits_TV, expected_TV, rtol=0, atol=0.5)


@pytest.mark.parametrize(("weights", "difference"), [("bf16", 0.05), ("int8", 0.2)])
def test_smaller_weights_give_similar_logits(weights: WeightFormat, difference: float) -> None:
    model = built(512)
    exact, similar = NativeDecoder(model, 1, 512), NativeDecoder(model, 1, 512, weights)
    expected_TV, found_TV = (decoder.logits(prefilled(decoder, 0, [TOKENS])) for decoder in (exact, similar))
    assert 0 < (found_TV - expected_TV).pow(2).mean().sqrt() < difference * expected_TV.std()


def test_eight_bits_are_refused_on_a_gpu() -> None:
    with pytest.raises(BadConfig, match="8 bits"):
        TorchDecoder(built(512), 1, 512, "int8")


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_the_memory_of_a_decoder_is_known_before_it_is_made(weights: WeightFormat) -> None:
    model = model_of(OPTIONS[-1])
    made = NativeDecoder(model, 4, 512, weights)
    tables = 4 * (model.architecture.head_parameters + model.architecture.value_table_parameters)
    taken = tables + sum(made._network.bytes)
    assert taken * 0.97 < needed_bytes(model.architecture, 4, 512, weights) < taken * 1.03


def test_threads_do_not_change_a_bit() -> None:
    """Answers alone, a prompt alone, and a pass with both are divided between threads in different ways."""
    model = model_of({})
    decoders = [NativeDecoder(model, 8, 512, threads=threads) for threads in (1, 2, 3)]
    outputs: list[list[Tensor]] = []
    for decoder in decoders:
        found = [prefilled(decoder, slot, [20], IDS[:20]) for slot in range(8)]
        found.append(decode(decoder, range(8), IDS[20:28], [20] * 8, [IDS[19]] * 8))
        rows = Rows()
        for slot, length in ((0, 1), (1, 70), (2, 1), (3, 30), (7, 1)):
            rows.add(slot, 21, IDS[21 : 21 + length], IDS[20])
        found.append(decoder.forward(rows))
        outputs.append(found)
    for found in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, outputs[0], strict=True))
