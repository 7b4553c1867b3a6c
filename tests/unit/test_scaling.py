"""The ladder of nanochat, row by row; and errors when the arithmetic does not work out."""

from __future__ import annotations

import pytest

from nanochat.config.training import Horizon, ModelConfig, PretrainConfig
from nanochat.errors import BadConfig
from nanochat.model.architecture import Architecture
from nanochat.scaling import derive_hyperparameters

# depth, width, heads, parameters M, matrices M, value tables M, S M, tokens B, log2 batch, steps, decay, FLOP/token,
# FLOP
LADDER = [
    (4, 256, 2, 36.7, 3.1, 16.8, 11.5, 0.14, 18, 528, 1.890, 8.02e7, 1.1e16),
    (6, 384, 3, 73.5, 10.6, 37.7, 23.2, 0.28, 18, 1062, 0.940, 1.68e8, 4.7e16),
    (8, 512, 4, 125.8, 25.2, 67.1, 41.9, 0.50, 18, 1920, 0.520, 2.96e8, 1.5e17),
    (12, 768, 6, 286.3, 84.9, 151.0, 110.1, 1.32, 19, 2520, 0.280, 7.60e8, 1.0e18),
    (16, 1024, 8, 536.9, 201.3, 268.4, 234.9, 2.82, 19, 5376, 0.131, 1.59e9, 4.5e18),
    (20, 1280, 10, 896.5, 393.2, 419.4, 435.2, 5.22, 20, 4980, 0.100, 2.89e9, 1.5e19),
    (24, 1536, 12, 1384.1, 679.5, 604.0, 729.8, 8.76, 20, 8352, 0.060, 4.78e9, 4.2e19),
    (26, 1664, 13, 1681.8, 863.9, 708.8, 918.4, 11.02, 20, 10510, 0.048, 5.99e9, 6.6e19),
    (32, 2048, 16, 2818.6, 1610.6, 1073.7, 1677.7, 20.13, 21, 9600, 0.037, 1.08e10, 2.2e20),
]


@pytest.mark.parametrize("row", LADDER, ids=lambda row: f"d{row[0]}")
def test_the_ladder_follows_from_depth(row: tuple[float, ...]) -> None:
    depth, width, heads, total, matrices, tables, scaling, tokens, batch, steps, decay, flops_per_token, flops = row
    hyperparameters = derive_hyperparameters(PretrainConfig(model=ModelConfig(depth=int(depth))), 32_768, 2048)
    network = hyperparameters.architecture
    assert (network.width, network.heads) == (width, heads)
    assert network.parameters / 1e6 == pytest.approx(total, abs=0.06)
    assert network.matrix_parameters / 1e6 == pytest.approx(matrices, abs=0.06)
    assert network.value_table_parameters / 1e6 == pytest.approx(tables, abs=0.06)
    assert network.scaling_parameters / 1e6 == pytest.approx(scaling, abs=0.06)
    assert hyperparameters.tokens / 1e9 == pytest.approx(tokens, abs=0.006)
    assert hyperparameters.batch_tokens == 2**batch
    assert hyperparameters.steps == steps
    assert hyperparameters.muon_weight_decay == pytest.approx(decay, abs=0.006 if depth == 4 else 0.0006)
    assert network.flops_per_token == pytest.approx(flops_per_token, rel=0.003)
    assert hyperparameters.flops == pytest.approx(flops, rel=0.05)


def test_the_speedrun() -> None:
    hyperparameters = derive_hyperparameters(
        PretrainConfig(model=ModelConfig(depth=24), horizon=Horizon(amount=8)), 32_768, 2048
    )
    assert (hyperparameters.steps, hyperparameters.batch_tokens) == (5568, 1_048_576)
    assert hyperparameters.flops == pytest.approx(2.79e19, rel=0.002)


def small(**changes: object) -> Architecture:
    options = {"depth": 4, "aspect_ratio": 32, "head_dim": 32} | changes
    return Architecture(model=ModelConfig.model_validate(options), vocab_size=2000, sequence_len=256)


def test_json_round_trip() -> None:
    network = small(window_pattern="SL", queries_per_kv_head=2)
    assert Architecture.model_validate_json(network.model_dump_json()) == network


def test_windows_are_a_quarter_in_blocks_of_128_and_the_last_is_long() -> None:
    assert small().windows() == (128, 128, 128, 256)
    assert small(window_pattern="S").windows() == (128, 128, 128, 256)
    assert Architecture(model=ModelConfig(depth=2), vocab_size=300, sequence_len=64).windows() == (64, 64)
    assert Architecture(model=ModelConfig(depth=4), vocab_size=300, sequence_len=2048).windows() == (
        512,
        512,
        512,
        2048,
    )


def test_tables_are_padded_to_64() -> None:
    assert small().padded_vocab == 2048


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"batch_tokens": 1000}, "`batch_tokens`"),
        ({"batch_tokens": 100}, "`batch_tokens`"),
        ({"batch_tokens": 4096, "horizon": Horizon(unit="tokens", amount=4000)}, "`horizon.amount`"),
        ({"model": ModelConfig(depth=12, queries_per_kv_head=4)}, "`model.queries_per_kv_head`"),
    ],
)
def test_arithmetic_that_does_not_work_names_the_field(changes: dict[str, object], names: str) -> None:
    with pytest.raises(BadConfig, match=names):
        derive_hyperparameters(PretrainConfig.model_validate(changes), 2048, 256)


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [
        (Horizon(unit="steps", amount=7), 7),
        (Horizon(unit="tokens", amount=4096 * 7 + 5), 7),
        (Horizon(unit="flops", amount=7.2 * 4096 * small().flops_per_token), 7),
    ],
)
def test_horizons(horizon: Horizon, steps: int) -> None:
    config = PretrainConfig(model=small().model, batch_tokens=4096, horizon=horizon)
    assert derive_hyperparameters(config, 2000, 256).steps == steps


def test_rates_of_a_small_batch() -> None:
    hyperparameters = derive_hyperparameters(PretrainConfig(model=small().model, batch_tokens=4096), 2048, 256)
    assert hyperparameters.lr_scale == pytest.approx(0.0884, abs=1e-4)
    assert 0.3 < hyperparameters.muon_weight_decay < 1
