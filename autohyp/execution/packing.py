"""Keeping a repository of very many commits small: loose objects into packs, loose refs into one file.

An experiment makes three small files and a ref. `Packer.count` starts, after every `PACK_EVERY` of them, a
thread that has git pack what is loose at the lowest priority: the caller never waits, and each time costs as
much as what is new. Readers and the writer of the repository may go on meanwhile: git removes a file only
when a pack that is on disk holds what it held. Killed at any point, the next time does the rest; what it
left is removed then. Packs are never merged: 100,000 experiments make 50.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autohyp.errors import WorkspaceError
from autohyp.execution.git_command import run_git

__all__ = ["PACK_EVERY", "Packer", "loose_objects", "pack_repository"]

log = logging.getLogger(__name__)

PACK_EVERY = 2000
"""Experiments from one packing to the next."""

_TEMPORARY = ("objects/??/tmp_obj_*", "objects/pack/tmp_*", "objects/pack/.tmp-*")
_LOCKS = ("packed-refs.lock", "packed-refs.new")


def loose_objects(repository: Path) -> list[str]:
    """The hashes of all objects that are files of their own."""
    return [
        path.parent.name + path.name
        for path in (repository / "objects").glob("[0-9a-f][0-9a-f]/*")
        if len(path.name) == 38
    ]


def pack_repository(repository: Path) -> None:
    """Pack all that is loose now; nothing if another process is at it. Raises WorkspaceError."""
    with _alone(repository) as lock_fd:
        if lock_fd is None:
            return
        found = loose_objects(repository)
        if found:
            packs = repository / "objects" / "pack" / "pack"
            command = ["pack-objects", "-q", "--threads=1", "--window=4", str(packs)]
            _run(repository, lock_fd, *command, stdin="\n".join([*found, ""]).encode())
            _run(repository, lock_fd, "prune-packed", "--quiet")
        _run(repository, lock_fd, "pack-refs", "--all")


def _run(repository: Path, lock_fd: int, *command: str, stdin: bytes = b"") -> None:
    """The command keeps the lock, should this process be killed before it ends."""
    run_git(f"--git-dir={repository}", *command, stdin=stdin, yielding=True, pass_fds=(lock_fd,))


@contextmanager
def _alone(repository: Path) -> Iterator[int | None]:
    """The one that packs removes what its killed predecessors left."""
    lock_fd = os.open(repository / "packing.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Of the experiments' writer only a file that it had no time to rename yet can be among these;
        # it writes that one again.
        left = [path for pattern in _TEMPORARY for path in repository.glob(pattern)]
        for path in [*left, *(repository / name for name in _LOCKS)]:
            with suppress(FileNotFoundError):
                path.unlink()
        yield lock_fd
    finally:
        os.close(lock_fd)


class Packer:
    """Counts a repository's experiments, and packs it in the background when it is time."""

    def __init__(self, repository: Path, num_loose: int, every: int = PACK_EVERY) -> None:
        self._repository = repository
        self._num_loose = num_loose
        self._every = every
        self._thread: threading.Thread | None = None

    def count(self) -> None:
        """One experiment more."""
        self._num_loose += 1
        if self._num_loose >= self._every and (self._thread is None or not self._thread.is_alive()):
            self._num_loose = 0
            self._thread = threading.Thread(target=self._pack, name="packer", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being packed."""
        if self._thread is not None:
            self._thread.join()

    def _pack(self) -> None:
        try:
            pack_repository(self._repository)
        except (OSError, WorkspaceError):
            log.exception("the repository could not be packed; it is tried again later")
