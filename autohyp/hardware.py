"""What this machine is: cores, memory and GPUs, found without importing torch or waking a GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from autohyp.records import Hardware

__all__ = ["detect_hardware"]


def detect_hardware() -> Hardware:
    """The hardware that this process may use."""
    return Hardware(
        cpus=_usable_cpus(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=_gpu_names(),
        cpu_name=_cpu_name(),
    )


def _usable_cpus() -> int:
    """Cores that this process may run on, within a container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no quota
        return cores


def _gpu_names() -> tuple[str, ...]:
    """One name per visible GPU, by the driver's own tool; none without a driver."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    command = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    devices = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(name for _, name in devices)
    named = (_visible_name(part.strip(), devices) for part in visible.split(","))
    return tuple(name for name in named if name is not None)


def _visible_name(part: str, devices: list[list[str]]) -> str | None:
    """The device that one part of CUDA_VISIBLE_DEVICES means: an index, or how its UUID begins."""
    if part.isdigit():
        return devices[int(part)][1] if int(part) < len(devices) else None
    return next((name for uuid, name in devices if part.startswith("GPU-") and uuid.startswith(part)), None)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
