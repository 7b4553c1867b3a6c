"""The network against one written with loops; windows, switches, files, learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.errors import DamagedArtifact, NotFound
from nanochat.model.architecture import Architecture
from nanochat.model.files import load_model, save_model
from nanochat.model.fused import blend, norm, relu_squared, rotate
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import StepRates
from nanochat.scaling import hyperparameters_from_steps

PLAIN = {"value_embeddings": False, "residual_scalars": False, "smear": False, "backout": False}


def built(sequence_len: int = 12, vocab_size: int = 300, **options: object) -> GPT:
    """A small model in which nothing is 0, so that nothing hides."""
    small = {"depth": 3, "aspect_ratio": 11, "head_dim": 8} | options
    model = GPT(Architecture(model=ModelConfig.model_validate(small), vocab_size=vocab_size, sequence_len=sequence_len))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def some_ids(B: int, T: int, vocab_size: int = 300) -> Tensor:
    return torch.randint(0, vocab_size, (B, T), generator=torch.Generator().manual_seed(3))


def slow_logits(model: GPT, ids: list[int]) -> list[list[float]]:
    """One row through the network, a position, head and channel at a time, in double precision."""
    network, options = model.architecture, model.architecture.model
    weight = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def normed(x: Tensor) -> Tensor:
        return x / ((x * x).sum() / len(x) + torch.finfo(torch.float32).eps).sqrt()

    def turned(x: Tensor, position: int) -> Tensor:
        half, y = len(x) // 2, x.clone()
        for i in range(half):
            angle = -position * options.rope_base ** (-2 * i / len(x))
            y[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            y[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
        return y

    def sigmoid(z: Tensor) -> Tensor:
        return 1 / (1 + (-z).exp())

    D, group = network.head_dim, options.queries_per_kv_head
    x = [normed(weight["embedding.weight"][i]) for i in ids]
    if options.smear:
        gates = [sigmoid(weight["smear_gate.weight"][0] @ row[:24]) for row in x]
        x = [x[0]] + [x[t] + weight["smear"] * gates[t] * x[t - 1] for t in range(1, len(x))]
    first, middle = list(x), list(x)
    for layer in range(network.depth):
        at = f"blocks.{layer}."
        if options.residual_scalars:
            a, b = weight["residual_L"][layer], weight["first_L"][layer]
            x = [a * row + b * start for row, start in zip(x, first, strict=True)]
        h = [normed(row) for row in x]
        queries = [weight[at + "attention.query.weight"] @ row for row in h]
        keys = [weight[at + "attention.key.weight"] @ row for row in h]
        values = [weight[at + "attention.value.weight"] @ row for row in h]
        mixed = []
        for t in range(len(ids)):
            heads = []
            for head in range(network.heads):
                kv = head // group
                mine, theirs = slice(head * D, head * D + D), slice(kv * D, kv * D + D)
                q = normed(turned(queries[t][mine], t)) * 1.2
                seen = range(max(0, t - network.windows()[layer]), t + 1)
                scores, gathered = [], []
                for s in seen:
                    k = normed(turned(keys[s][theirs], s)) * 1.2
                    scores.append(float(q @ k) / math.sqrt(D))
                    v = values[s][theirs]
                    if network.has_value_embedding(layer):
                        gate = 3 * sigmoid(weight[at + "attention.value_gate.weight"][kv] @ h[s][:12])
                        v = v + gate * weight[f"value_embeddings.{layer}.weight"][ids[s]][theirs]
                    gathered.append(v)
                shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
                heads.append(sum(share * v for share, v in zip(shares, gathered, strict=True)))
            mixed.append(weight[at + "attention.out.weight"] @ torch.cat(heads))  # type: ignore[arg-type]
        x = [row + more for row, more in zip(x, mixed, strict=True)]
        for t, row in enumerate(x):
            up = weight[at + "mlp.up.weight"] @ normed(row)
            x[t] = row + weight[at + "mlp.down.weight"] @ (up.clamp(min=0) ** 2)
        if layer == network.depth // 2:
            middle = list(x)
    if options.backout:
        x = [row - weight["backout"] * half for row, half in zip(x, middle, strict=True)]
    logits = [weight["head.weight"][: network.vocab_size] @ normed(row) for row in x]
    cap = options.logit_softcap
    return [(cap * (z / cap).tanh() if cap else z).tolist() for z in logits]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queries_per_kv_head": 5},
        PLAIN,
        {"logit_softcap": 0},
        {"window_pattern": "L", "smear": False},
        {"depth": 1, "aspect_ratio": 32},
    ],
    ids=str,
)
def test_the_network_equals_one_written_with_loops(options: dict[str, Any]) -> None:
    model, ids = built(**options), some_ids(2, 12)
    expected = torch.tensor([slow_logits(model, row) for row in ids.tolist()])
    with torch.no_grad():
        logits = model(ids)
    assert logits.shape == (2, 12, 300)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_windows_equal_loops_where_they_bite() -> None:
    model, ids = built(sequence_len=132, depth=2, aspect_ratio=8, window_pattern="S"), some_ids(1, 132)
    assert model.architecture.windows() == (128, 132)
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids)[0], torch.tensor(slow_logits(model, ids[0].tolist())), atol=1e-5, rtol=1e-5
        )


def test_the_window_hides_what_is_behind_it() -> None:
    model, ids = built(sequence_len=300, depth=1, **PLAIN), some_ids(1, 300)
    model.blocks[0].attention.window = 128  # type: ignore[union-attr]
    other = ids.clone()
    other[0, 100] = (ids[0, 100] + 1) % 300
    with torch.no_grad():
        changed = (model(ids) - model(other))[0].abs().amax(-1) > 0
    assert changed.nonzero().flatten().tolist() == list(range(100, 229))


def test_the_same_seed_gives_the_same_weights_and_meta_works() -> None:
    with torch.device("meta"):
        assert GPT(built().architecture).head.weight.is_meta
    one, two, three = (GPT(built().architecture) for _ in range(3))
    one.init_weights(5)
    two.init_weights(5)
    three.init_weights(6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, three.embedding.weight)


@pytest.mark.parametrize("options", [{}, {"queries_per_kv_head": 5}, PLAIN], ids=str)
def test_every_parameter_gets_the_initial_weights_of_the_table(options: dict[str, Any]) -> None:
    model = GPT(built(**options).architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    model.init_weights(5)
    bound = (3 / model.architecture.width) ** 0.5
    for name, weight in model.named_parameters():
        assert weight.isfinite().all(), name
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            assert not weight.any()
        if name.endswith(("query.weight", "key.weight", "value.weight")):
            assert 0.9 * bound < weight.abs().max() <= bound
        if name.endswith("up.weight"):
            assert 0.36 * bound < weight.abs().max() <= 0.4 * bound
    assert model.embedding.weight.std().item() == pytest.approx(0.8, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    if not options:
        assert model.residual_L[[0, -1]].tolist() == pytest.approx([1.15, 1.05])
        assert model.first_L[[0, -1]].tolist() == pytest.approx([0.20, 0.05])
        assert (model.smear.item(), model.backout.item()) == pytest.approx((0.0, 0.2))


def test_gradients_written_out_are_right() -> None:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    angle = torch.randn(5, 1, 4, generator=generator, dtype=torch.float64)
    check = torch.autograd.gradcheck
    assert check(norm, draw(3, 8))
    assert check(lambda x: rotate(x, angle.cos(), angle.sin()), draw(2, 5, 3, 8))
    assert check(blend, (draw(2, 5), draw(2, 5), draw(), draw()))
    assert check(relu_squared, draw(4, 6))


def test_the_norm_is_that_of_torch_in_every_dtype() -> None:
    generator = torch.Generator().manual_seed(5)
    small = torch.randn(6, 64, generator=generator) * 0.02  # where epsilon would show
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = small.to(dtype)
        torch.testing.assert_close(norm(x), torch.nn.functional.rms_norm(x, (64,)), atol=0.01, rtol=0.01)


def test_compiled_it_is_one_graph_and_one_of_the_loss_and_none_is_made_again() -> None:
    made: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
            made.append(name)
            return graph.forward

        return backend

    exact, ids = built(sequence_len=24), some_ids(2, 25)
    model = GPT(exact.architecture)
    model.load_state_dict(exact.state_dict())
    model.prepare_positions(24)
    model.between = torch.compile(model.between, backend=counting("loss"))
    model.trunk = torch.compile(model.trunk, dynamic=False, backend=counting("network"))
    for _ in range(2):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.testing.assert_close(loss, exact(ids[:, :-1], ids[:, 1:]), atol=1e-5, rtol=1e-5)
    assert made == ["network", "loss"]
    made.clear()
    with torch.no_grad():
        model.eval()
        for _ in range(2):
            model(ids[:, :-1], ids[:, 1:], reduction="none")
        model.train()
        assert made == ["network", "loss"]  # without gradients, once
    model(ids[:, :-1], ids[:, 1:]).backward()
    assert len(made) == 2


def test_the_model_memorises_one_batch() -> None:
    model = GPT(Architecture(model=ModelConfig(depth=2, aspect_ratio=16, head_dim=16), vocab_size=64, sequence_len=16))
    model.init_weights(1)
    hyperparameters = hyperparameters_from_steps(
        model.architecture, batch_tokens=16 * 4, steps=200, muon_weight_decay=0
    )
    optimizer = build_optimizer(model, OptimizerConfig(matrix_lr=2, embedding_lr=10, head_lr=2), hyperparameters)
    ids = some_ids(4, 17, 64)
    loss = math.inf
    for _ in range(200):
        out = model(ids[:, :-1], ids[:, 1:])
        out.backward()
        optimizer.step(StepRates(1.0, 0.9, 0.0))
        optimizer.zero_grad()
        loss = out.item()
        if loss < 0.01:
            break
    assert loss < 0.01


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model, ids = built(), some_ids(1, 12)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(ids), loaded(ids))
    assert loaded.architecture == model.architecture


def test_a_damaged_or_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.json"):
        load_model(tmp_path)
    save_model(tmp_path, built())
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(DamagedArtifact, match=r"model\.safetensors"):
        load_model(tmp_path)
    save_model(tmp_path, built())
    (tmp_path / "model.json").write_text(built(depth=2).architecture.model_dump_json())
    with pytest.raises(DamagedArtifact, match="does not fit"):
        load_model(tmp_path)


def test_bf16_products_stay_near_fp32() -> None:
    exact, ids = built(), some_ids(2, 13)
    rough = GPT(exact.architecture, torch.bfloat16)
    rough.load_state_dict(exact.state_dict())
    expected, loss = (model(ids[:, :-1], ids[:, 1:]) for model in (exact, rough))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in rough.parameters())
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.02)
