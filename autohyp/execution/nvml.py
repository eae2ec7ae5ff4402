"""A GPU's memory, and how long it computed while somebody looked, by NVIDIA's management library (NVML).

The driver tells which share of its last sample period (a sixth of a second to a second) kernels were
running in; summed over the time between looks that is good to some tenths of a second. Where there is no
driver, or it does not tell (a MIG slice), nothing is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pynvml

__all__ = ["GpuLoad", "total_memory_mb", "utilisation_of"]

Utilisation = Callable[[], float | None]
"""Tells in what share of the last moments a GPU computed, 0 to 1; None where that is not known."""


class GpuLoad:
    """Seconds of computing, from looks at a GPU's utilisation at most every `interval_s`."""

    def __init__(self, utilisation: Utilisation, interval_s: float = 0.2) -> None:
        self._utilisation = utilisation
        self._interval_s = interval_s
        self._looked_s = math.nan
        self.busy_s: float | None = None

    def look(self, now_s: float) -> None:
        """Count the time since the last look, if that was long enough ago; the first one starts the count."""
        if now_s - self._looked_s < self._interval_s:
            return
        share = self._utilisation()
        if share is None:
            return
        elapsed_s = 0.0 if math.isnan(self._looked_s) else now_s - self._looked_s
        self.busy_s = (self.busy_s or 0.0) + share * elapsed_s
        self._looked_s = now_s


def utilisation_of(gpu: str) -> Utilisation:
    """For a GPU named by its UUID or its index."""
    try:
        handle = _device(gpu)
    except pynvml.NVMLError:
        return lambda: None

    def look() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except pynvml.NVMLError:
            return None

    return look


def total_memory_mb(gpu: str) -> float:
    """Of a GPU named by its UUID or its index; 0 where that is not known."""
    try:
        return float(pynvml.nvmlDeviceGetMemoryInfo(_device(gpu)).total) / 2**20
    except pynvml.NVMLError:
        return 0.0


def _device(gpu: str) -> Any:
    pynvml.nvmlInit()
    if gpu.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(gpu)
    return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
