"""Confinement by bubblewrap: a minimal file system and namespaces of its own.

The command sees a root folder that holds read-only binds of the system, the interpreter and the
listed paths, its scratch, a fresh /proc, and a /dev with the harmless nodes and its GPU's. It has
its own user, PID, network (loopback only), IPC, UTS and cgroup namespaces, no capabilities, and the
system call filter of `seccomp.kernel_surface`. /tmp and /dev/shm are private and bounded, and
vanish with the run; what is stored there does not count as memory or scratch.

Not covered: unix sockets in the listed folders can be connected to; the kernel itself and the GPU
driver are shared. Bubblewrap before 0.7 cannot bound /tmp and /dev/shm.

https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from autohyp.errors import SandboxError
from autohyp.execution.sandbox import seccomp
from autohyp.execution.sandbox.base import SandboxProcess, SandboxSpec, check_spec
from autohyp.execution.sandbox.process import launch_supervised
from autohyp.execution.sandbox.selfcheck import escape_found
from autohyp.execution.sandbox.visible import (
    CONFIGURATION,
    DEVICES,
    SYSTEM,
    SYSTEM_STATE,
    gpu_devices,
    python_paths,
)

__all__ = ["BubblewrapSandbox"]

_PRIVATE_MB = 1024
_ROOT_MB = 16
_ROOT_WRITABLE_PROC = ("acpi", "bus", "driver", "fs", "irq", "scsi", "sys", "sysrq-trigger")
_ENV = "/usr/bin/env"


class BubblewrapSandbox:
    """Confines a command with `bwrap`; see `base.Sandbox`."""

    name = "bubblewrap"

    def unavailable_reason(self) -> str | None:
        """Why bubblewrap does not work here, or `None` when a trial run held."""
        if self._program is None:
            return "bubblewrap is not installed (apt-get install bubblewrap, dnf install bubblewrap)"
        if not seccomp.supported_machine():
            return "the system call filter is made for x86_64 and aarch64 only"
        return self._escape

    @cached_property
    def _program(self) -> str | None:
        return shutil.which("bwrap")

    @cached_property
    def _escape(self) -> str | None:
        return escape_found(self)

    @cached_property
    def _bounds_private_folders(self) -> bool:
        listing = subprocess.run(
            [self._program or "bwrap", "--help"], capture_output=True, text=True, check=False
        )
        return "--size BYTES" in listing.stdout + listing.stderr

    def launch(self, spec: SandboxSpec) -> SandboxProcess:
        """Start the command. Raises `SandboxError` when it could not be started."""
        check_spec(spec)
        if self._program is None:
            raise SandboxError("sandbox: bubblewrap is not installed")
        arguments_fd = _memory_file("\0".join(self._arguments(spec)).encode())
        filter_fd = _memory_file(seccomp.assemble(seccomp.kernel_surface()))
        status_fds = os.pipe()
        channels = [("--args", arguments_fd), ("--seccomp", filter_fd)]
        channels.append(("--json-status-fd", status_fds[1]))
        options = [word for option, fd in channels for word in (option, str(fd))]
        try:
            return launch_supervised(
                spec,
                command=(self._program, *options, *_inner_command(spec)),
                environment={},
                cwd="/",
                extra_fds=(arguments_fd, filter_fd),
                status_fds=status_fds,
            )
        finally:
            for descriptor in (arguments_fd, filter_fd, *status_fds):
                os.close(descriptor)

    def _arguments(self, spec: SandboxSpec) -> list[str]:
        """Options that go through a file, so that no process list shows the environment."""
        namespaces = ["user-try", "ipc", "pid", "net", "uts", "cgroup-try"]
        arguments = [f"--unshare-{name}" for name in namespaces]
        arguments += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        arguments += ["--hostname", "sandbox", "--clearenv"]
        for name, value in spec.environment.items():
            arguments += ["--setenv", name, value]
        for folder, size_mb in (
            ("/dev", _ROOT_MB),
            ("/dev/shm", _PRIVATE_MB),
            ("/tmp", _PRIVATE_MB),
        ):
            arguments += self._private_folder(folder, size_mb)
        arguments += ["--proc", "/proc", *_proc_arguments(), *_device_arguments(spec)]
        arguments += _bind_arguments(spec)
        return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(spec.cwd)]

    def _private_folder(self, folder: str, size_mb: int) -> list[str]:
        size = ["--size", str(size_mb * 2**20)] if self._bounds_private_folders else []
        return [*size, "--tmpfs", folder]


def _inner_command(spec: SandboxSpec) -> list[str]:
    # Bubblewrap sets PWD on its own; the command gets what its spec says.
    if (wanted := spec.environment.get("PWD")) is not None:
        return [_ENV, f"PWD={wanted}", *spec.command]
    return [_ENV, "-u", "PWD", *spec.command]


def _proc_arguments() -> list[str]:
    # Owned by root and open to it even without capabilities and in a user namespace.
    if os.geteuid() != 0:
        return []
    paths = [f"/proc/{name}" for name in _ROOT_WRITABLE_PROC]
    return [word for path in paths for word in ("--ro-bind-try", path, path)]


def _device_arguments(spec: SandboxSpec) -> list[str]:
    arguments = []
    for path in (*DEVICES, *gpu_devices(spec.gpu_index)):
        arguments += ["--dev-bind-try", path, path]
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return arguments


def _bind_arguments(spec: SandboxSpec) -> list[str]:
    """Binds of all visible paths, outer ones first, so that inner ones are laid over them."""
    arguments = []
    for path in SYSTEM:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    readable = (*CONFIGURATION, *SYSTEM_STATE, *python_paths(), *map(str, spec.readonly))
    options = dict.fromkeys(readable, "--ro-bind")
    options |= dict.fromkeys(map(str, spec.writable), "--bind")
    places = {}
    for path, option in options.items():
        if os.path.exists(path):
            source = os.path.realpath(path)
            # Both names work inside: the one that was given and the one it stands for.
            places[source] = places[path] = (option, source)
    bound = dict.fromkeys(SYSTEM, "--ro-bind")
    for place in sorted(places, key=lambda place: len(Path(place).parts)):
        option, source = places[place]
        around = [bound[str(parent)] for parent in Path(place).parents if str(parent) in bound]
        if around[:1] != [option]:
            arguments += [option, source, place]
            bound[place] = option
    return arguments


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("sandbox")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
