"""Energy of the GPUs of this machine, counted by their driver (NVML); Volta and newer GPUs have the counter."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from nanochat import settings

LIBRARY = "libnvidia-ml.so.1"


class GpuEnergy:
    """Counts from its construction on. GPUs that are not visible to this process do not count."""

    def __init__(self) -> None:
        self._library = _load()
        self._begin = list(_counters_mj(self._library)) if self._library else []

    def joules(self) -> float | None:
        """Energy so far; None without a driver that counts it."""
        if not self._library or not self._begin:
            return None
        end = list(_counters_mj(self._library))
        if len(end) != len(self._begin):
            return None
        return sum(after - before for before, after in zip(self._begin, end, strict=True)) / 1000


def _load() -> Any:
    """The driver's library; None on a machine without it."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _counters_mj(library: Any) -> Iterator[int]:
    """The counter of each visible GPU, in millijoules since the driver was loaded."""
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    visible = settings.visible_gpus()
    for name in [str(number) for number in range(count.value)] if visible is None else visible:
        device, energy_mj = ctypes.c_void_p(), ctypes.c_ulonglong()
        if name.isdigit():
            error = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(device))
        else:
            error = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(device))
        if error == 0 and library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy_mj)) == 0:
            yield energy_mj.value
