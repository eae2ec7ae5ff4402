"""The launching side: starts the supervisor of a run, hears how the run ends, and can end it.

Safe to use from any thread of a program with many threads (a Ray worker): the supervisor is started
as a fresh interpreter, not forked from the program's state.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from autohyp.errors import SandboxError
from autohyp.execution.sandbox.base import SandboxExit, SandboxSpec
from autohyp.execution.sandbox.plan import ENDED, STARTED, LandlockRules, Plan, decode_reports

__all__ = ["SupervisedProcess", "launch_supervised"]

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[3]);"
    "from autohyp.execution.sandbox.supervisor import main;"
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)
_START_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 30.0
_SPARE_TASKS = 4096
_SPARE_DATA_MB = 1024


class SupervisedProcess:
    """A run under its supervisor: see `base.SandboxProcess`."""

    def __init__(self, supervisor: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._supervisor = supervisor
        self._control = control
        self._pidfd = os.pidfd_open(supervisor.pid)
        self._received = b""
        self._outcome: SandboxExit | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int:
        """Process id of the supervisor, the root of the run's process tree."""
        return self._supervisor.pid

    @property
    def outcome(self) -> SandboxExit | None:
        """How it ended, once `poll` or `wait` has seen the end."""
        return self._outcome

    def fileno(self) -> int:
        """The supervisor's pidfd: readable when nothing of the run is left."""
        return self._pidfd

    def poll(self) -> int | None:
        """The return code, or `None` while anything of the tree still runs."""
        with self._lock:
            if self._outcome is None and self._supervisor.poll() is not None:
                self._outcome = self._read_outcome()
            return None if self._outcome is None else self._outcome.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; `None` when it is still running after `timeout_s` seconds."""
        if self.poll() is None and _readable(self._pidfd, timeout_s):
            with self._lock:
                self._supervisor.wait()
        return self.poll()

    def kill(self) -> None:
        """End the whole tree; returns when nothing is left. Harmless after the end.

        Raises SandboxError when the kernel has not ended it after half a minute.
        """
        if self.poll() is not None:
            return
        with suppress(OSError):  # it may end meanwhile
            self._control.send(b"!")
        if self.wait(_KILL_TIMEOUT_S) is None:
            raise SandboxError(
                f"sandbox: process tree {self.pid} does not end although it was killed; "
                "a process hangs in the kernel (see its stack in /proc/<pid>/stack)"
            )

    def close(self) -> None:
        """End what is left and release the descriptors."""
        if self._pidfd < 0:
            return
        self.kill()
        self._control.close()
        os.close(self._pidfd)
        self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pidfd", -1) >= 0:
            self.close()

    def await_start(self) -> None:
        """Return when the command runs; raise SandboxError when it could not be started."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not (reports := decode_reports(self._received)):
            if not _readable(self._control.fileno(), max(0.0, deadline_s - time.monotonic())):
                raise SandboxError(f"sandbox: the supervisor did not start within {_START_TIMEOUT_S:.0f} s")
            piece = self._control.recv(65536)
            if not piece:
                raise SandboxError("sandbox: the supervisor ended before it started the command")
            self._received += piece
        if reports[0]["kind"] != STARTED:
            raise SandboxError(f"sandbox: the command could not be started: {reports[0]['reason']}")

    def _read_outcome(self) -> SandboxExit:
        try:
            while piece := self._control.recv(65536):
                self._received += piece
        except OSError:  # reset by a supervisor that was killed
            pass
        for report in decode_reports(self._received):
            if report.pop("kind") == ENDED:
                return SandboxExit(**report)  # type: ignore[arg-type]
        lost = "the supervisor of the run was killed from outside, so how it ended is not known"
        return SandboxExit(-signal.SIGKILL, lost, 0.0, 0)


def launch_supervised(
    spec: SandboxSpec,
    *,
    command: tuple[str, ...] | None = None,
    environment: dict[str, str] | None = None,
    cwd: str | None = None,
    extra_fds: tuple[int, ...] = (),
    status_fds: tuple[int, int] | None = None,
    landlock_abi: int = 0,
    landlock_rules: LandlockRules | None = None,
) -> SupervisedProcess:
    """Start `spec` under a supervisor; the arguments replace or add to what the spec says.

    Raises SandboxError when the supervisor or the command cannot be started.
    """
    own_environment = dict(spec.environment) if environment is None else environment
    todo = Plan(
        command=list(command or spec.command),
        cwd=cwd or str(spec.cwd),
        environment=own_environment,
        stdout_fd=spec.stdout_fd,
        pass_fds=[*spec.pass_fds, *extra_fds],
        parent_pid=os.getpid(),
        rlimits=_rlimits(spec),
        memory_mb=spec.limits.memory_mb,
        processes=spec.limits.processes,
        scratch_mb=spec.limits.scratch_mb,
        writable=[str(path) for path in spec.writable],
        landlock_abi=landlock_abi,
        landlock_rules=landlock_rules,
        status_fds=status_fds,
    )
    process = _start_supervisor(todo)
    try:
        process.await_start()
    except BaseException:
        process.close()
        raise
    return process


def _start_supervisor(todo: Plan) -> SupervisedProcess:
    ours, theirs = socket.socketpair()
    plan_fd = os.memfd_create("sandbox-plan")
    try:
        with os.fdopen(plan_fd, "wb", closefd=False) as file:
            file.write(todo.to_bytes())
        passed = (
            plan_fd,
            theirs.fileno(),
            todo.stdout_fd,
            *todo.pass_fds,
            *(todo.status_fds or ()),
        )
        arguments = (str(plan_fd), str(theirs.fileno()), _PACKAGE_ROOT)
        supervisor = subprocess.Popen(
            # Isolated and without site: nothing of a campaign can slip into it, and it starts fast.
            [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=todo.stdout_fd,
            stderr=todo.stdout_fd,
            pass_fds=passed,
            env={k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        ours.close()
        raise SandboxError(f"sandbox: cannot start the supervisor: {error}") from error
    finally:
        os.close(plan_fd)
        theirs.close()
    return SupervisedProcess(supervisor, ours)


def _rlimits(spec: SandboxSpec) -> list[tuple[int, int]]:
    limits = spec.limits
    bounds = [(resource.RLIMIT_CORE, 0)]
    if limits.open_files is not None:
        bounds.append((resource.RLIMIT_NOFILE, limits.open_files))
    if limits.file_size_mb is not None:
        bounds.append((resource.RLIMIT_FSIZE, limits.file_size_mb * 2**20))
    if limits.processes is not None:
        # The kernel counts all processes of the user (and does not bind root), so this only
        # slows a fork bomb down until the watcher, which counts the run's own, ends it.
        bounds.append((resource.RLIMIT_NPROC, _running_tasks() + limits.processes + _SPARE_TASKS))
    if limits.memory_mb is not None and spec.gpu_index is None:
        # Turns an absurd allocation into a MemoryError; the stacks of idle threads need the spare.
        # CUDA reserves far more than it uses, so with a GPU only the watcher counts.
        bounds.append((resource.RLIMIT_DATA, (limits.memory_mb + _SPARE_DATA_MB) * 2**20))
    return bounds


def _running_tasks() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _readable(descriptor: int, timeout_s: float | None) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
