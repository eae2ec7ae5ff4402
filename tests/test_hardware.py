"""What this machine is, told without a GPU: the driver's tool is a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from autohyp import hardware
from autohyp.hardware import detect_hardware

DEVICES = "GPU-aaaa-1, NVIDIA H200\nGPU-bbbb-2, NVIDIA H100 80GB HBM3\nGPU-cccc-3, NVIDIA L4\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver with three devices; the returned script may be changed."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{DEVICES}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    class WithDriver(type(Path())):  # type: ignore[misc]
        def exists(self, **kwargs: bool) -> bool:
            return str(self) == "/dev/nvidiactl" or super().exists(**kwargs)

    monkeypatch.setattr(hardware, "Path", WithDriver)
    return tool


def test_cores_and_memory_are_found() -> None:
    found = detect_hardware()
    assert found.cpus >= 1
    assert found.memory_gb > 0


@pytest.mark.usefixtures("driver")
def test_every_gpu_has_its_name() -> None:
    assert detect_hardware().gpus == ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA L4")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ("NVIDIA H200",)),
        ("2, 0", ("NVIDIA L4", "NVIDIA H200")),
        ("7", ()),
        ("", ()),
        ("-1", ()),
        ("GPU-bbbb-2", ("NVIDIA H100 80GB HBM3",)),
        ("GPU-cc,GPU-aaaa-1", ("NVIDIA L4", "NVIDIA H200")),
        ("GPU-dddd", ()),
    ],
)
def test_only_visible_gpus_count_by_index_or_by_uuid(
    visible: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect_hardware().gpus == names


def test_a_driver_that_fails_means_no_gpu(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho broken >&2\nexit 9\n")
    assert detect_hardware().gpus == ()
    driver.unlink()
    assert detect_hardware().gpus == ()
