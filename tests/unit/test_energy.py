"""Energy from a driver that is not there, and warnings of a stage."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from nanochat.execution import energy
from nanochat.execution.energy import GpuEnergy
from nanochat.execution.recorded_warnings import recorded_warnings

LOG = logging.getLogger("nanochat.anything")


class Driver:
    """Two GPUs; each call of the counter adds 1 kJ times the number of the GPU, from 1."""

    def __init__(self) -> None:
        self.counters = {0: 5_000_000, 1: 0}

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:  # noqa: N802
        device._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy_mj: Any) -> int:  # noqa: N802
        self.counters[device.value - 1] += device.value * 1_000_000
        energy_mj._obj.value = self.counters[device.value - 1]
        return 0


@pytest.mark.parametrize(("visible", "joules"), [(None, 3000.0), ("1", 2000.0), ("0,1", 3000.0), ("", None)])
def test_energy_is_that_of_the_visible_gpus(
    visible: str | None, joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    monkeypatch.setattr(energy, "_load", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert GpuEnergy().joules() == joules


def test_without_a_driver_the_energy_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "LIBRARY", "libnothing.so")
    assert GpuEnergy().joules() is None


def test_warnings_of_a_stage_are_those_of_its_thread() -> None:
    with recorded_warnings() as found:
        LOG.warning("row %d is odd", 7)
        LOG.warning("row %d is odd", 7)
        LOG.info("fine")
        other = threading.Thread(target=LOG.warning, args=["of another stage"])
        other.start()
        other.join()
        LOG.warning("https://name:password@host/file failed")
    LOG.warning("afterwards")
    assert found == ["row 7 is odd", "https://host/file failed"]
