"""Profiles are complete; changing a field names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.config.chat import MixtureItem
from nanochat.config.overrides import override
from nanochat.errors import BadConfig, NanochatError, NotFound
from nanochat.profiles import PROFILES, profile, profile_files
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
    ("change", "expected"),
    [
        ("pretrain.dept=6", "Did you mean `pretrain.model.depth`?"),
        ("pretrain.model.depth=0", "`pretrain.model.depth`: input should be greater than or equal to 1, got `0`."),
        ("pretrain.model.depth=many", "`pretrain.model.depth`"),
        ("tokenizer.vocab_size=100", "`tokenizer.vocab_size`"),
        ("pretrain", "field=value"),
        ("pretrain.seed.x=1", "single value"),
    ],
)
def test_a_wrong_field_or_value_is_named(change: str, expected: str) -> None:
    with pytest.raises(BadConfig) as caught:
        override(profile("demo").config, [change])
    assert expected in str(caught.value)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="`demo`"):
        profile("demmo")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    (tmp_path / "profiles").mkdir()
    return tmp_path


MINE = """
base: demo
summary: A larger demo.
config:
  pretrain: {model: {depth: 6}, optimizer: {matrix_lr: 1e-3}}
  conversations: {train: [{task: world, limit: 5}]}
compute:
  kernels: {compile: off}
  ranks: 4
"""


def test_a_profile_in_a_file_changes_its_base(home: Path) -> None:
    (home / "profiles" / "mine.yaml").write_text(MINE)
    (home / "profiles" / "longer.json").write_text('{"base": "mine", "config": {"sft": {"epochs": 2}}}')
    mine, longer, demo = profile("mine"), profile("longer"), PROFILES["demo"]
    assert override(demo.config, ["pretrain.depth=6", "pretrain.optimizer.matrix_lr=0.001"]) == override(
        mine.config, [f"conversations.train={demo.config.conversations.model_dump_json(include={'train'})[9:-1]}"]
    )
    assert mine.config.conversations.train == (MixtureItem(limit=5),)
    assert mine.compute.kernels.compile == "off"
    assert mine.compute.parallelism.ranks == 4
    assert mine.compute.checkpoints == demo.compute.checkpoints
    assert longer.config == override(mine.config, ["sft.epochs=2"])
    assert longer.compute == mine.compute
    assert profile(str(home / "profiles" / "mine.yaml")) == mine
    assert (mine.summary, list(profile_files())) == ("A larger demo.", ["longer", "mine"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: demo\nconfg: {}", "`confg`: extra inputs are not permitted"),
        ("config: {}", "`base`: field required"),
        ("base: demo\nconfig: {sft: {epoch: 2}}", "`config.sft.epoch`: extra inputs are not permitted, got `2`."),
        ("base: demo\nconfig: {sft: {epochs: 0}}", "`config.sft.epochs`: input should be greater than 0, got `0`."),
        ("base: demo\ncompute: {parallelism: {rank: 0}}", "`compute.parallelism.rank`: extra inputs"),
        ("base: demo\nconfig: 5", "`config`: input should be a valid"),
        ("- 1", "is a list, and not an object"),
        ("base: [", "is neither JSON nor YAML: "),
        ("base: demo\nbase: cpu", "`: a name appears twice."),
        ("base: mine", "the profile is based on itself."),
        ("base: ../profiles/mine.yaml", "the profile has more than 20 bases."),
        ("base: demmo", "There is no profile `demmo`. Did you mean `demo`?"),
    ],
)
def test_a_wrong_profile_file_is_named_with_the_field(home: Path, text: str, message: str) -> None:
    path = home / "profiles" / "mine.yaml"
    path.write_text(text)
    with pytest.raises(NanochatError) as caught:
        profile("mine")
    assert message in str(caught.value)
    assert message.startswith("There is no profile") or str(caught.value).startswith(f"`{path}`")


def test_a_base_is_relative_to_the_file_that_names_it(home: Path) -> None:
    (home / "common.yaml").write_text("base: demo\nconfig: {sft: {epochs: 3}}")
    (home / "profiles" / "mine.yaml").write_text("base: ../common.yaml")
    assert profile("mine").config.sft.epochs == 3


def test_a_file_does_not_replace_a_built_in_profile(home: Path) -> None:
    (home / "profiles" / "cpu.yml").write_text("base: demo")
    with pytest.raises(BadConfig, match="has the name of a built-in profile"):
        profile("cpu")
    assert profile("demo") == PROFILES["demo"]
