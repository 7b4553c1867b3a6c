"""Configs: frozen, documented, and with one canonical form."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import ValidationError

from nanochat.config import AbsentMeans, Compute, Config, Horizon, PipelineConfig, PretrainConfig, canonical_json


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


def test_every_field_is_in_the_canonical_form() -> None:
    assert set(PretrainConfig().canonical()) == set(PretrainConfig.model_fields)


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
    compute = Compute(workers=workers)
    assert (compute.at_once(shards), compute.shared(shards).workers) == (at_once, threads_each)
