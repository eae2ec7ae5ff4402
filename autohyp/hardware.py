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
        cpus=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=_gpu_names(),
        cpu_name=_cpu_name(),
    )


def _gpu_names() -> tuple[str, ...]:
    """One name per visible GPU, by the driver's own tool; none without a driver."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    names = tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    indices = [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return tuple(names[index] for index in indices if index < len(names))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
