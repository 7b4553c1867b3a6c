"""Profiles are complete; changing a field names what is wrong."""

from __future__ import annotations

import pytest

from nanochat.config.overrides import override
from nanochat.errors import BadConfig, NotFound
from nanochat.profiles import PROFILES, profile
from nanochat.scaling import derive_hyperparameters


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_planned(name: str) -> None:
    config = PROFILES[name].config
    hyperparameters = derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    assert hyperparameters.steps > 0


def test_a_changed_field_is_changed_and_nothing_else() -> None:
    before = profile("demo").config
    after = override(before, ["pretrain.model.depth=6"])
    assert after.pretrain.model.depth == 6
    assert override(after, [f"pretrain.model.depth={before.pretrain.model.depth}"]) == before


def test_levels_may_be_left_out_where_no_doubt_is() -> None:
    assert override(profile("demo").config, ["pretrain.depth=6"]).pretrain.model.depth == 6


def test_text_needs_no_quotes() -> None:
    assert override(profile("cpu").config, ["data.source=some/folder"]).data.source == "some/folder"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("pretrain.dept=6", "Did you mean `pretrain.model.depth`?"),
        ("pretrain.model.depth=0", "`pretrain.model.depth`: input should be greater than or equal to 1, got `0`."),
        ("pretrain.model.depth=many", "`pretrain.model.depth`"),
        ("tokenizer.vocab_size=100", "`tokenizer.vocab_size`"),
        ("pretrain", "field=value"),
        ("pretrain.seed.x=1", "single value"),
    ],
)
def test_a_wrong_field_or_value_is_named(change: str, says: str) -> None:
    with pytest.raises(BadConfig) as caught:
        override(profile("demo").config, [change])
    assert says in str(caught.value)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="`demo`"):
        profile("demmo")
