"""What of this machine a confined command may see besides the paths it was given.

The system's programs and libraries, the interpreter that runs autohyp (a virtual environment and
the installation it is based on), the /proc and /sys entries and device nodes that PyTorch and CUDA
use. Nothing of /home, /root, /opt, /srv, /var or /run comes along unless the interpreter lives
there, and then only its own folders. Packages that are installed in editable mode, through .pth
files or PYTHONPATH from elsewhere, are not among them.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["CONFIGURATION", "DEVICES", "SYSTEM", "SYSTEM_STATE", "gpu_devices", "python_paths"]

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
)
"""Programs and libraries."""

CONFIGURATION = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/nsswitch.conf",
    "/etc/passwd",
)
"""What the dynamic loader, the compilers and the C library read."""

SYSTEM_STATE = (
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/kernel/mm",
    "/sys/module",
)
"""Topology of processors, memory and GPUs; read-only."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_PREFIX_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "include", "nvvm", "targets")
_MAX_LINKS = 40


def gpu_devices(gpu_index: int | None) -> list[str]:
    """The device nodes of one NVIDIA GPU and of the driver's control; empty without a GPU."""
    if gpu_index is None:
        return []
    names = [f"nvidia{gpu_index}", "nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"]
    names.append("nvidia-caps")
    return [path for path in (f"/dev/{name}" for name in names) if os.path.exists(path)]


def python_paths() -> list[str]:
    """Existing paths that the running interpreter needs to start and to import its packages.

    Only the parts of a prefix that belong to an installation are named, so that a virtual
    environment made in a project's own folder does not expose the project.
    """
    paths = _links_to(sys.executable)
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        paths += [os.path.join(prefix, part) for part in (*_PREFIX_PARTS, "pyvenv.cfg")]
    known = sysconfig.get_paths()
    paths += [known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found = {path for path in paths if os.path.exists(path) and not _belongs_to_system(path)}
    return sorted(found)


def _links_to(path: str) -> list[str]:
    """`path` and what it links to, link by link."""
    chain = [path]
    while os.path.islink(path) and len(chain) < _MAX_LINKS:
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        chain.append(path)
    return chain


def _belongs_to_system(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in SYSTEM)
