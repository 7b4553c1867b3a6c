"""Which files of a foreign model are read: safetensors or GGUF, by their hashes, and never a pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from nanochat.config.foreign import ForeignOptions
from nanochat.errors import BadSource
from nanochat.sources.model_files import find_model, is_foreign, locate
from tests.evaluation import tiny_models


def test_a_folder_is_recorded_with_the_hash_of_each_file(tmp_path: Path) -> None:
    folder = tiny_models.write_model(tmp_path / "tiny")
    (folder / "README.md").write_text("not read")
    (folder / "pytorch_model.bin").write_bytes(b"not read either")
    (folder / "custom.py").write_text("not without trust_remote_code")
    found = find_model(str(folder), ForeignOptions())
    names = dict(found.files)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(names)
    assert set(names).isdisjoint({"README.md", "pytorch_model.bin", "custom.py"})
    assert names["config.json"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert found.source == str(folder)
    trusted = find_model(str(folder), ForeignOptions(trust_remote_code=True))
    assert "custom.py" in dict(trusted.files)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadSource, match=f"only in `{name}`, a format that can run code when it is loaded"):
        find_model(str(tmp_path), ForeignOptions())


def test_a_folder_without_a_model_or_with_several_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="There is no file or folder"):
        find_model(str(tmp_path / "missing"), ForeignOptions())
    with pytest.raises(BadSource, match="neither safetensors nor GGUF"):
        find_model(str(tmp_path), ForeignOptions())
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(BadSource, match="is not a GGUF file"):
        find_model(str(tmp_path / "notes.txt"), ForeignOptions())
    for name in ("a.Q4.gguf", "b.Q8.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(BadSource, match=r"2 GGUF files.*foreign.gguf.*`a.Q4.gguf`, `b.Q8.gguf`"):
        find_model(str(tmp_path), ForeignOptions())
    assert find_model(str(tmp_path), ForeignOptions(gguf="b.Q8.gguf")).gguf == "b.Q8.gguf"
    assert find_model(str(tmp_path / "a.Q4.gguf"), ForeignOptions()).gguf == "a.Q4.gguf"
    with pytest.raises(BadSource, match=r"no GGUF file `c.gguf`"):
        find_model(str(tmp_path), ForeignOptions(gguf="c.gguf"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadSource, match="2 GGUF files"):
        find_model(str(tmp_path), ForeignOptions())


def test_a_file_that_changed_or_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_models.write_model(tmp_path / "tiny")
    recorded = find_model(str(folder), ForeignOptions())
    assert locate(recorded) == folder
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadSource, match=r"model.safetensors` is not the file that was recorded"):
        locate(recorded)
    weights.unlink()
    with pytest.raises(BadSource, match=r"model.safetensors` no longer exists"):
        locate(recorded)


@pytest.mark.parametrize("address", ["hf://org/name", "/models/a", "./a", "~/a", "a.gguf", "file:///a"])
def test_addresses_that_cannot_be_in_the_store(address: str) -> None:
    assert is_foreign(address)


@pytest.mark.parametrize("address", ["chat/latest", "sft/0123abcd", "0123abcd", "org/name"])
def test_names_that_may_be_in_the_store(address: str) -> None:
    assert not is_foreign(address)
