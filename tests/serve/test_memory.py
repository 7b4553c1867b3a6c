"""The memory that a model may take, of the machine or of the container, and what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nanochat.config.training import ModelConfig
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.serve import memory
from tests.serve.models import TOKENIZER


def group(folder: Path, limit: str, used: int, files: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\nactive_file 3\n")


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control groups of a process in `/pod/container`."""
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    monkeypatch.setattr(memory, "OWN_CGROUP", own)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup" / "pod" / "container").mkdir(parents=True)
    return tmp_path / "cgroup"


def test_without_limits_it_is_what_the_machine_has(cgroups: Path) -> None:
    group(cgroups / "pod" / "container", "max", 5)
    assert memory.available_memory_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_the_narrowest_group_counts_and_pages_of_files_are_free(cgroups: Path) -> None:
    group(cgroups / "pod" / "container", "3000", 2000, files=500)
    group(cgroups / "pod", "9000", 2000)
    assert memory.available_memory_bytes() == 1500
    group(cgroups / "pod", "3000", 2900)
    assert memory.available_memory_bytes() == 100
    group(cgroups, "1000", 2000)
    assert memory.available_memory_bytes() == 0


def test_a_system_without_groups_has_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "none")
    assert memory.available_memory_bytes() > 0


ANONYMOUS = """
import sys
from pathlib import Path
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.native_decoder import needed_bytes
from nanochat.model.files import load_model
from nanochat.tokenizer.bpe import Tokenizer

def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

folder = Path(sys.argv[1])
before, tokenizer = anonymous(), Tokenizer.load(folder / "vocabulary.json")
model = load_model(folder)
mapped = anonymous() - before
engine = Engine(model, tokenizer, EngineSettings(slots=1, threads=1))
print(mapped, anonymous() - before, needed_bytes(model.architecture, 1, 256, "fp32"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_an_engine_takes_the_memory_of_its_weights_once(tmp_path: Path) -> None:
    model = GPT(
        Architecture(model=ModelConfig(depth=4, aspect_ratio=160), vocab_size=TOKENIZER.vocab_size, sequence_len=256)
    )
    model.init_weights(1)
    save_model(tmp_path, model)
    TOKENIZER.save(tmp_path / "vocabulary.json")
    done = subprocess.run([sys.executable, "-c", ANONYMOUS, str(tmp_path)], capture_output=True, text=True, check=True)
    mapped, taken, needed = map(int, done.stdout.split())
    assert needed > 80e6
    assert mapped < 20e6, "the weights are a map of their file"
    assert taken < needed + 30e6
