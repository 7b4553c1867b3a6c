"""Values of a deployment's form override the named profile, never the defaults of classes."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanochat.config.compute import Checkpointing, Compute, Parallelism
from nanochat.config.overrides import complete
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig
from nanochat.profiles import PROFILES, profile

if importlib.util.find_spec("prefect") is None:
    pytest.skip("prefect is not installed", allow_module_level=True)

PROJECT = Path(__file__).parents[2]
DEPLOYMENTS = {
    entry["name"]: entry
    for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    if "profile" in entry.get("parameters", {})
}
CHANGES: list[dict[str, Any]] = [
    {"data": {"train_shards": 3}},
    {"data": {"world": {"seed": 5}}},
    {"tokenizer": {"document_characters": 77}},
    {"tokens": {"row_group_tokens": 4096}},
    {"rows": {"sequence_len": 64}},
    {"data_card": {"most_languages": 3}},
    {"pretrain": {"model": {"depth": 3}}},
    {"pretrain": {"seed": 7, "guard": {"spike_nats": 1.5}}},
    {"base_evaluation": {"prompts": ["One morning"]}},
    {"conversations": {"seed": 3}},
    {"sft": {"epochs": 2}},
    {"chat_evaluation": {"limit": 9}},
    {"core_bundle": {"source": "bundle.zip"}},
    {"core_evaluation": {"limit": 5}},
    {"pairs": {"source": "pairs.jsonl"}},
    {"dpo": {"beta": 0.5, "optimizer": {"head_lr": 0.01}}},
    {"problems": {"seed": 7}},
    {"rl": {"steps": 3, "sampling": {"top_k": 5}}},
    {"text_evaluation": {"window_tokens": 64}},
    {"foreign": {"bos": "always"}},
    {"report": {"title": "mine"}},
]


def parsed(profile_name: str, config: Any, compute: Any, tmp_path: Path) -> Any:
    return importlib.import_module("flows.request").parse_request(
        profile_name, config, compute, (tmp_path / "s").as_uri()
    )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_every_section_of_the_config_is_tried() -> None:
    assert {name for change in CHANGES for name in change} == set(PipelineConfig.model_fields)
    assert {"demo", "demo-rl", "fine-tune", "sft-only", "refresh"} <= DEPLOYMENTS.keys()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_part_of_a_config_changes_that_and_leaves_the_profile(name: str, tmp_path: Path) -> None:
    named = DEPLOYMENTS[name]["parameters"]["profile"]
    before = flat(profile(named).config.model_dump(mode="json"))
    for change in CHANGES:
        after = flat(parsed(named, change, None, tmp_path).config.model_dump(mode="json"))
        assert after == {**before, **flat(change)}, change


@pytest.mark.parametrize("name", PROFILES)
def test_a_part_of_compute_changes_that_and_leaves_the_profile(name: str, tmp_path: Path) -> None:
    before = profile(name).compute.model_dump()
    after = {**before, "supervision": {**before["supervision"], "timeout_s": 5}}
    assert parsed(name, None, {"supervision": {"timeout_s": 5}}, tmp_path).compute.model_dump() == after
    assert parsed(name, {}, {}, tmp_path).compute == profile(name).compute


def test_a_form_with_fields_from_before_the_groups_is_read(tmp_path: Path) -> None:
    old = {"silence_s": 5, "ranks": 3, "parallelism": {"nodes": 2}}  # plain-words: ok
    given = parsed("demo", None, old, tmp_path).compute
    assert (given.supervision.watchdog_timeout_s, given.parallelism.ranks, given.parallelism.nodes) == (5, 3, 2)
    assert given.checkpoints == PROFILES["demo"].compute.checkpoints


def test_a_form_filled_with_another_profile_means_the_one_that_it_names(tmp_path: Path) -> None:
    """Nothing else was changed in it; one changed field makes it count as a whole."""
    demo, speedrun = PROFILES["demo"], PROFILES["speedrun"]
    filled, how = demo.config.model_dump(mode="json"), demo.compute.model_dump(mode="json")
    given = parsed("speedrun", filled, how, tmp_path)
    assert (given.config, given.compute) == (speedrun.config, speedrun.compute)
    filled["sft"]["epochs"] = 2
    assert parsed("speedrun", filled, how, tmp_path).config == demo.config.model_copy(
        update={"sft": demo.config.sft.model_copy(update={"epochs": 2})}
    )


def test_what_the_command_line_hands_over_is_not_read_again(tmp_path: Path) -> None:
    """Settings may make one profile's way that of another."""
    how = PROFILES["demo"].compute.model_copy(update={"checkpoints": Checkpointing()})
    assert how == PROFILES["cpu"].compute
    assert parsed("demo", None, how, tmp_path).compute == how


def test_a_form_of_an_older_version_gets_new_fields_from_the_profile(tmp_path: Path) -> None:
    old = PROFILES["demo"].config.model_dump(mode="json")
    del old["rows"]
    del old["pretrain"]["batch_tokens"]
    assert parsed("demo", old, None, tmp_path).config == PROFILES["demo"].config


@pytest.mark.parametrize(
    ("config", "compute", "named"),
    [
        ({"sft": {"epoch": 2}}, None, "sft.epoch"),
        ({"pretrain": {"model": {"width": 2}}}, None, "pretrain.model.width"),
        ({"sfft": {"epochs": 2}}, None, "sfft"),
        ({"sft": 5}, None, "sft"),
        ({"pretrain": {"model": None}}, None, "pretrain.model"),
        ({"conversations": {"train": [{"task": "nope"}]}}, None, "conversations.train.0.task"),
        ([1], None, "PipelineConfig"),
        (None, {"rank": 2}, "rank"),
        (None, {"parallelism": {"rank": 2}}, "parallelism.rank"),
        (None, {"ranks": "two"}, "parallelism.ranks"),
        (None, "two", "Compute"),
    ],
)
def test_what_a_config_does_not_have_is_refused_by_name(config: Any, compute: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=f"^`{named}`"):
        parsed("demo", config, compute, tmp_path)


def test_a_stage_that_is_sent_elsewhere_gets_a_complete_config() -> None:
    whole = Compute(parallelism=Parallelism(ranks=2)).model_dump(mode="json")
    assert complete(Compute, whole, "compute") == Compute(parallelism=Parallelism(ranks=2))
    del whole["supervision"]["timeout_s"]
    with pytest.raises(BadConfig, match=r"`compute\.supervision\.timeout_s` is missing"):
        complete(Compute, whole, "compute")
    config = PROFILES["demo"].config.pretrain.model_dump(mode="json")
    del config["model"]["smear"]
    with pytest.raises(BadConfig, match=r"`config\.model\.smear` is missing"):
        complete(type(PROFILES["demo"].config.pretrain), config, "config")


@pytest.mark.parametrize("store", ["mine", "./mine", "../mine"])
def test_a_store_that_depends_on_the_workers_folder_is_refused(store: str) -> None:
    with pytest.raises(BadConfig, match="depends on the folder of the worker"):
        importlib.import_module("flows.request").parse_request("demo", None, None, store)


def test_every_deployment_gives_its_runs_a_heartbeat_and_a_safe_path() -> None:
    for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        env = entry["work_pool"]["job_variables"]["env"]
        assert env == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PYTHONSAFEPATH": "1"}, entry["name"]


def test_the_form_groups_how_to_run_and_accepts_names_from_before_the_groups() -> None:
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    form = importlib.import_module("flows.pipeline").nanochat_flow.parameters.model_dump()
    assert form["properties"]["profile"]["enum"] == list(PROFILES)
    groups = form["definitions"]["Compute"]["properties"]
    names = ["data_workers", "parallelism", "kernels", "checkpoints", "supervision", "tracking", "gpu_job"]
    assert list(groups) == names
    assert all(group["description"] for group in groups.values())
    for accepted in ({"parallelism": {"ranks": 2}}, {"ranks": 2, "silence_s": 5}):  # plain-words: ok
        validate({"compute": accepted}, form, raise_on_error=True)
    with pytest.raises(ValidationError, match="rank"):
        validate({"compute": {"parallelism": {"rank": 2}}}, form, raise_on_error=True)
