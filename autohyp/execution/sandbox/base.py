"""What a sandbox is asked to run and what it promises, independent of how it does that.

Every backend promises, for the command and everything that descends from it:

* It sees the system's libraries, the running interpreter, `SandboxSpec.readonly` and
  `SandboxSpec.writable`; it writes nowhere else (bubblewrap adds a private, bounded /tmp and
  /dev/shm that vanish with the run).
* It reaches no network and no other process, and of the GPUs only `gpu_index`.
* Its environment is exactly `SandboxSpec.environment`; its open files are /dev/null as standard
  input, `stdout_fd` as output and error, and `pass_fds` under their own numbers.
* When the command ends, when it breaks a limit, when `kill` is called or when the launching
  process dies, whatever is left of the process tree is killed.

The backend named "none" keeps only the last two promises. What each backend does not cover stands
in its own module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from autohyp.errors import SandboxError

__all__ = [
    "Limits",
    "Sandbox",
    "SandboxExit",
    "SandboxProcess",
    "SandboxSpec",
    "check_spec",
]


@dataclass(frozen=True)
class Limits:
    """Upper bounds for the whole process tree of one run. `None` means no limit."""

    memory_mb: int | None = None
    """Anonymous and shared memory of all processes together, and files in memory that they hold open;
    mapped files do not count."""
    processes: int | None = 1024
    """Processes and threads together, as the kernel counts tasks."""
    open_files: int | None = 4096
    """File descriptors of each process."""
    file_size_mb: int | None = 8192
    """Size of any one file."""
    scratch_mb: int | None = 16384
    """Disk space taken by everything below `SandboxSpec.writable` (at least 4 KiB each), and by removed
    files that are still open."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise SandboxError(f"sandbox limit {name} is {value}; it must be above 0 or unset")


@dataclass(frozen=True)
class SandboxSpec:
    """One command and all that it may touch. Paths are absolute and exist."""

    command: tuple[str, ...]
    """The program, as an absolute path, and its arguments."""
    cwd: Path
    """Working folder; inside one of the paths below."""
    stdout_fd: int
    """Open descriptor that receives standard output and standard error."""
    readonly: tuple[Path, ...] = ()
    """Files and folders it may read and run. They may not lie inside a writable folder."""
    writable: tuple[Path, ...] = ()
    """Folders it may also write: the run's scratch. Point TMPDIR and HOME in there."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole environment of the command."""
    pass_fds: tuple[int, ...] = ()
    """Descriptors (3 or higher) that the command inherits under the same numbers."""
    limits: Limits = field(default_factory=Limits)
    gpu_index: int | None = None
    """N of the one /dev/nvidia<N> it may open; `None` for no GPU.

    Confined, CUDA finds one GPU and calls it 0, whatever N is: set CUDA_VISIBLE_DEVICES to "0" or
    to the GPU's UUID. With "none" CUDA finds them all: set it to N or to the UUID.
    """


@dataclass(frozen=True)
class SandboxExit:
    """How a sandboxed command ended, and what its process tree had used at most."""

    returncode: int
    """Exit status; -N when signal N ended it (bubblewrap also reports status 128 + N so)."""
    violation: str | None
    """A sentence about the limit that it broke, or about a sandbox that failed; else `None`."""
    peak_memory_mb: float
    """Highest sampled anonymous and shared memory of the tree, pages shared by forks counted once
    (20 samples a second of a single process, one of a tree of several)."""
    peak_processes: int
    """Highest sampled number of processes and threads."""


class SandboxProcess(Protocol):
    """A command under way. Use it as a context manager: leaving the block kills what is left."""

    @property
    def pid(self) -> int:
        """Process id of the supervisor, the root of the run's process tree."""

    @property
    def outcome(self) -> SandboxExit | None:
        """How it ended, once `poll` or `wait` has seen the end."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the run has ended and nothing of it is left."""

    def poll(self) -> int | None:
        """The return code, or `None` while anything of the tree still runs."""

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; `None` when it is still running after `timeout_s` seconds."""

    def kill(self) -> None:
        """End the whole tree; returns when nothing is left. Harmless after the end."""

    def __enter__(self) -> SandboxProcess: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Sandbox(Protocol):
    """One way of confining a command."""

    @property
    def name(self) -> str:
        """`bubblewrap`, `landlock` or `none`: what views and results show."""

    def unavailable_reason(self) -> str | None:
        """Why this machine cannot confine a command this way, or `None` when a trial run held."""

    def launch(self, spec: SandboxSpec) -> SandboxProcess:
        """Start the command. Raises `SandboxError` when it could not be started."""


def check_spec(spec: SandboxSpec) -> None:
    """Raise `SandboxError`, saying what to change, for a spec that no backend can honour."""
    if not spec.command or not os.path.isabs(spec.command[0]):
        raise SandboxError("sandbox: the command must start with the absolute path of a program")
    if any("\0" in text for text in (*spec.command, *spec.environment, *spec.environment.values())):
        raise SandboxError("sandbox: a NUL character in the command or the environment")
    if any(not name or "=" in name for name in spec.environment):
        raise SandboxError("sandbox: the name of an environment variable is empty or contains '='")
    if spec.stdout_fd < 1:
        raise SandboxError("sandbox: stdout_fd must be 1 or higher; 0 is the standard input")
    if any(fd < 3 for fd in spec.pass_fds):
        raise SandboxError("sandbox: pass_fds must be 3 or higher; 0 to 2 are set by the sandbox")
    _check_paths(spec)


def _check_paths(spec: SandboxSpec) -> None:
    for path in (*spec.readonly, *spec.writable):
        if not path.is_absolute() or not path.exists():
            raise SandboxError(f"sandbox: {path} must be an absolute path that exists")
    readonly = [path.resolve() for path in spec.readonly]
    writable = [path.resolve() for path in spec.writable]
    for path in writable:
        if not path.is_dir():
            raise SandboxError(f"sandbox: writable path {path} must be a folder")
    for path in readonly:
        for folder in writable:
            if path.is_relative_to(folder):
                raise SandboxError(
                    f"sandbox: {path} cannot be read-only inside the writable {folder}; "
                    "keep sources and data outside the scratch folder"
                )
    cwd = spec.cwd.resolve()
    if not any(cwd.is_relative_to(path) for path in (*readonly, *writable)):
        raise SandboxError(f"sandbox: the working folder {cwd} is not among the visible paths")
