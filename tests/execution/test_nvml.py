"""How long a GPU computed before its run was charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from autohyp.execution.nvml import GpuLoad, utilisation_of


def test_it_sums_the_share_of_the_time_between_looks() -> None:
    shares = iter([0.9, 0.5, 1.0, 0.0])
    load = GpuLoad(lambda: next(shares), interval_s=0.2)
    for now_s in (10.0, 10.1, 10.4, 10.45, 11.4, 12.0):
        load.look(now_s)
    assert load.busy_s == pytest.approx(0.4 * 0.5 + 1.0)


def test_a_driver_that_cannot_tell_gives_no_number() -> None:
    load = GpuLoad(lambda: None)
    load.look(1.0)
    load.look(2.0)
    assert load.busy_s is None


@pytest.mark.parametrize(
    ("gpu", "asked"), [("GPU-1234", "nvmlDeviceGetHandleByUUID"), ("3", "nvmlDeviceGetHandleByIndex")]
)
def test_the_gpu_is_asked_for_by_its_own_name(monkeypatch: pytest.MonkeyPatch, gpu: str, asked: str) -> None:
    class Rates:
        gpu = 75

    def handle(name: str) -> Callable[[Any], str]:
        return lambda given: f"{name}:{given}"

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    for name in ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByIndex"):
        monkeypatch.setattr(pynvml, name, handle(name))
    seen: list[str] = []
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda given: seen.append(given) or Rates)
    assert utilisation_of(gpu)() == 0.75
    assert seen == [f"{asked}:{gpu}"]


def test_without_a_driver_or_on_a_slice_of_a_gpu_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert utilisation_of("0")() is None
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    assert utilisation_of("0")() is None
