"""The memory that a model may take: of the machine, or of the container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from nanochat.serve import memory


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
