"""Config files: what `nanochat config` and run records contain loads to the same keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import yaml

from nanochat.cli import run, runs
from nanochat.cli.app import out
from nanochat.config.base import AbsentMeans, Config, canonical_json
from nanochat.config.data import ShardConfig
from nanochat.config.files import read_config, read_values
from nanochat.config.overrides import complete
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import BadConfig, NanochatError, NotFound
from nanochat.profiles import PROFILES
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_printed_and_a_recorded_config_load_to_the_same_key(name: str, suffix: str, tmp_path: Path) -> None:
    config = PROFILES[name].config
    for values in (config.model_dump(mode="json"), config.canonical()):
        path = tmp_path / f"config.{suffix}"
        path.write_text(json.dumps(values, indent=2) if suffix == "json" else yaml.safe_dump(values))
        loaded = read_config(PipelineConfig, path)
        assert loaded == config
        assert canonical_json(loaded.canonical()) == canonical_json(config.canonical())


class Later(Config):
    """A field whose default is not what its absence meant."""

    softcap: Annotated[float, AbsentMeans(15.0)] = 30.0
    """Soft cap."""


class Outer(Config):
    """For these tests."""

    inner: Later = Later()
    """One."""
    several: tuple[Later, ...] = ()
    """Several."""


def test_a_field_that_a_key_leaves_out_gets_the_value_that_its_absence_means() -> None:
    loaded = complete(Outer, {"inner": {}, "several": [{}, {"softcap": 2}]})
    assert (loaded.inner.softcap, [each.softcap for each in loaded.several]) == (15.0, [15.0, 2.0])
    shard = ShardConfig(name="a", url="b", identity="c")
    assert complete(ShardConfig, shard.canonical()) == shard


EXPANDING = "a: &0 [x, x]\n" + "".join(f"b{n}: &{n} [{f'*{n - 1}, ' * 9}]\n" for n in range(1, 10))
"""Nine levels of aliases, for two billion values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sft": {}}', "`data` is missing."),
        ('{"sfft": {}}', "`sfft`: extra inputs are not permitted"),
        ("[1]", "is a list, and not an object"),
        ("", "is empty, and not an object"),
        ("{", "is neither JSON nor YAML"),
        ("a: b: c", "is neither JSON nor YAML: mapping values are not allowed here in line 1."),
        ('{"a": 1, "a": 2}', "`: a name appears twice."),
        ("a: 1\na: 2", "`: a name appears twice."),
        ('{"a": %s}' % ("9" * 5000), "`: Exceeds the limit (4300 digits) for integer string conversion."),
        ("[" * 100_000, "`: the values are nested too deeply."),
        ("a: {" * 3000, "`: the values are nested too deeply."),
        ("#" * 2_000_000, "more than 1,048,576 characters"),
        (EXPANDING, "`: it has more than 100,000 values."),
        ("a: \x02", "is neither JSON nor YAML: unacceptable character"),
        ("a: !!python/object:os.system {}", "is neither JSON nor YAML"),
        ("&a {sft: *a}", "`: it has more than 100,000 values."),
        ("{? [1] : 2}", "is neither JSON nor YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_path(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(BadConfig) as caught:
        read_config(PipelineConfig, path)
    assert str(caught.value).startswith(f"`{path}`")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file `none`"):
        read_values("none")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "latin", "a\0b", "~no-such-user/x"):
        with pytest.raises(NanochatError):
            read_values(path)


def test_merge_keys_of_yaml_are_applied(tmp_path: Path) -> None:
    (tmp_path / "merged.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_values(tmp_path / "merged.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_words_of_yaml_are_text() -> None:
    """`kernels.compile` has the values `on` and `off`."""
    assert yaml.safe_load("off") is False
    import io
    import sys

    stdin, sys.stdin = sys.stdin, io.StringIO("{a: off, b: true, c: 2026-01-02, d: 0.5, e: null}")
    try:
        assert read_values("-") == {"a": "off", "b": True, "c": "2026-01-02", "d": 0.5, "e": None}
    finally:
        sys.stdin = stdin


def test_the_recorded_config_of_a_run_is_printed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    config = PROFILES["cpu"].config
    with record_run(Store((tmp_path / "store").as_uri(), tmp_path / "cache"), "cpu", config.canonical()) as record:
        pass
    monkeypatch.setattr(out, "file", None)
    runs.runs(record.record.id, config=True)
    (tmp_path / "recorded.json").write_text(capsys.readouterr().out)
    run.config("demo", config_file=str(tmp_path / "recorded.json"), changes=["sft.epochs=2"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["sft"]["epochs"] == 2
    assert canonical_json(PipelineConfig.model_validate({**printed, "sft": config.sft}).canonical()) == canonical_json(
        config.canonical()
    )
