"""Configs: frozen, documented, and with one canonical form."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from pydantic import ValidationError

from nanochat.config.base import AbsentMeans, Config, canonical_json
from nanochat.config.compute import Compute, DataWorkers
from nanochat.config.overrides import override
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.training import Horizon, PretrainConfig
from nanochat.errors import BadConfig


class Small(Config):
    """For these tests."""

    depth: int = 4
    """Layers."""
    rate: float = 0.5
    """A rate."""


class SmallLater(Small):
    """The same, with a field added after artifacts existed."""

    softcap: Annotated[float, AbsentMeans(15.0)] = 15.0
    """Soft cap."""


def test_a_field_without_a_docstring_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bare\.depth"):

        class Bare(Config):
            depth: int = 4


def test_canonical_form_survives_json() -> None:
    config = PipelineConfig()
    again = PipelineConfig.model_validate_json(config.model_dump_json())
    assert canonical_json(config.canonical()) == canonical_json(again.canonical())


def test_whole_floats_and_integers_ask_for_the_same() -> None:
    assert Horizon(amount=12).canonical() == Horizon(amount=12.0).canonical()


def test_a_field_added_later_leaves_old_keys_alone_until_it_is_used() -> None:
    assert SmallLater().canonical() == Small().canonical()
    assert SmallLater(softcap=30.0).canonical() != Small().canonical()


def test_every_field_that_was_not_added_later_is_in_the_canonical_form() -> None:
    fields = PretrainConfig.model_fields
    later = {name for name in fields if any(isinstance(each, AbsentMeans) for each in fields[name].metadata)}
    assert set(PretrainConfig().canonical()) == fields.keys() - later
    assert len(later) < len(fields)


def test_nan_and_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        Small(rate=float("nan"))
    with pytest.raises(ValidationError):
        Small.model_validate({"dept": 4})


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Small().depth = 5


@pytest.mark.parametrize(
    ("workers", "shards", "at_once", "threads_each"),
    [(8, 1, 1, 8), (8, 3, 3, 2), (8, 8, 8, 1), (8, 1000, 8, 1), (1, 5, 1, 1), (2, 0, 1, 2)],
)
def test_shards_side_by_side_share_the_threads(workers: int, shards: int, at_once: int, threads_each: int) -> None:
    compute = Compute(data_workers=DataWorkers(count=workers))
    assert (compute.data_workers.at_once(shards), compute.shared(shards).data_workers.count) == (at_once, threads_each)


def test_names_from_before_the_groups_are_read_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    old = {
        "workers": 3, "task_runner": "dask", "scheduler": "tcp://a:1", "shards_per_task": 4, "device": "cpu",
        "ranks": 2, "nodes": 2, "rendezvous": "a:1", "node": 1, "micro_batch_rows": 8, "exact": True, "compile": "off",
        "attention": "sdpa", "checkpoint_every_s": 9, "keep_checkpoints": 5, "keep_checkpoint_every_steps": 6,
        "silence_s": 7, "timeout_s": 8, "log_every_steps": 10, "trackers": ["wandb"],  # plain-words: ok
    }  # fmt: skip
    compute = Compute.model_validate(old)
    assert set(old) == set(Compute.renamed_fields)
    for name, path in Compute.renamed_fields.items():
        group, field = path.split(".")
        value = getattr(getattr(compute, group), field)
        assert value == (tuple(old[name]) if name == "trackers" else old[name])
        assert f"`{name}` is now `{path}`; the next release will refuse the old name." in caplog.messages
    assert override(Compute(), [f"{name}={json.dumps(value)}" for name, value in old.items()]) == compute
    assert Compute.model_validate_json(compute.model_dump_json()) == compute


def test_the_current_name_of_a_field_takes_precedence() -> None:
    both = Compute.model_validate({"ranks": 2, "node": 1, "parallelism": {"ranks": 4, "nodes": 2}}).parallelism
    assert (both.ranks, both.node, both.nodes) == (4, 1, 2)


def test_an_error_of_a_whole_section_does_not_print_the_section() -> None:
    with pytest.raises(BadConfig) as caught:
        override(PipelineConfig(), ["rl.group_size=1"])
    assert str(caught.value).endswith("`group_size` should be at least 2.")
