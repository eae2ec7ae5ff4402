"""Confinement by Landlock and a system call filter: needs no privileges and no namespaces.

Works for root and ordinary users and inside unprivileged containers, from Linux 5.13 on. Files:
Landlock rules. TCP and abstract sockets: Landlock where the ABI has them, and in any case a system
call filter that leaves no way to connect a socket but pairs (`seccomp.landlock_gaps`). Other
processes: Landlock forbids tracing them and reading their memory, environment and files; signals
are scoped from ABI 6 on, before that the filter lets the command signal only itself. Root loses
every capability. The process tree is ended by the supervisor.

Not covered, unlike under bubblewrap:

* That a path exists, its size and times: `stat` works everywhere the user may look.
* Names, command lines and resource use of other processes: /proc is readable.
* Changing the processor affinity of the user's other processes.
* Unix sockets of the packet type can be bound to abstract names (CUDA does so when it starts); no
  process can be reached through them unless it connects on its own.
* A private /tmp and /dev/shm: there are none. Point TMPDIR at the scratch folder;
  `multiprocessing` locks and queues need /dev/shm and fail, unless it is listed as writable and
  thereby shared.
* On Linux before 6.10 (ABI < 5) device control calls on the device nodes it may open are not
  filtered; it can open none but the harmless ones and its GPU's.
"""

from __future__ import annotations

from functools import cached_property

from autohyp.execution.sandbox import kernel
from autohyp.execution.sandbox.base import SandboxProcess, SandboxSpec, check_spec
from autohyp.execution.sandbox.plan import LandlockRules
from autohyp.execution.sandbox.process import launch_supervised
from autohyp.execution.sandbox.seccomp import supported_machine
from autohyp.execution.sandbox.selfcheck import escape_found
from autohyp.execution.sandbox.visible import (
    CONFIGURATION,
    DEVICES,
    SYSTEM,
    SYSTEM_STATE,
    gpu_devices,
    python_paths,
)

__all__ = ["LandlockSandbox"]


class LandlockSandbox:
    """Confines a command with Landlock; see `base.Sandbox`.

    `max_abi` makes a newer kernel behave like one with that Landlock ABI (for tests).
    """

    name = "landlock"

    def __init__(self, max_abi: int = kernel.LANDLOCK_MAX_ABI) -> None:
        self._abi = min(kernel.landlock_abi(), max_abi)

    def unavailable_reason(self) -> str | None:
        """Why Landlock does not work here, or `None` when a trial run held."""
        if self._abi < 1:
            return "the kernel has no Landlock (Linux 5.13 or newer with lsm=landlock enabled)"
        if not supported_machine():
            return "the system call filter is made for x86_64 and aarch64 only"
        return self._escape

    @cached_property
    def _escape(self) -> str | None:
        return escape_found(self)

    def launch(self, spec: SandboxSpec) -> SandboxProcess:
        """Start the command. Raises `SandboxError` when it could not be started."""
        check_spec(spec)
        return launch_supervised(spec, landlock_abi=self._abi, landlock_rules=_rules(spec))


def _rules(spec: SandboxSpec) -> LandlockRules:
    access = kernel.Access
    readable = (*SYSTEM, *CONFIGURATION, *SYSTEM_STATE, "/proc", *python_paths(), *spec.readonly)
    return [
        *((str(path), access.READ) for path in readable),
        *((path, access.DEVICE) for path in (*DEVICES, *gpu_devices(spec.gpu_index))),
        *((str(path), access.READ_WRITE) for path in spec.writable),
    ]
