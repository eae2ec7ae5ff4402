"""Writing a git repository's files: objects and refs of their own, each whole under its name or not there.

Everything is written beside its place and renamed, a ref under the lock that git respects. Nothing is flushed
to the disk unless that is asked for.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path

from autohyp.errors import WorkspaceError

__all__ = ["Objects", "flush", "git_hash", "loose_path", "store", "unlink", "write_ref"]

_LOCK_WAIT_S = 2.0
"""Git holds a ref's lock for less than a millisecond: one that stays is a dead process's."""


def git_hash(data: bytes) -> str:
    """As git names things."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def loose_path(repository: Path, name: str) -> str:
    """Where the object of this hash is while it is in no pack."""
    return f"{repository}/objects/{name[:2]}/{name[2:]}"


class Objects:
    """Git objects that are named but not written yet."""

    def __init__(self) -> None:
        self._contents: list[tuple[str, bytes]] = []

    def add(self, kind: str, content: bytes) -> str:
        """The object's hash."""
        self._contents.append((kind, content))
        return git_hash(_framed(kind, content))

    def write(self, repository: Path) -> None:
        """Write them in the order in which they were added. Raises WorkspaceError."""
        for kind, content in self._contents:
            store(repository, kind, content)


def _framed(kind: str, content: bytes) -> bytes:
    return b"%s %d\0" % (kind.encode(), len(content)) + content


def store(repository: Path, kind: str, content: bytes) -> str:
    """Write a loose object and return its hash. Raises WorkspaceError."""
    data = _framed(kind, content)
    name = git_hash(data)
    path = loose_path(repository, name)
    if not os.path.exists(path):
        _place(f"{path[:-38]}tmp_obj_{os.urandom(6).hex()}", path, zlib.compress(data, 1))
    return name


def write_ref(path: str, commit: str, *, flushed: bool = False) -> None:
    """Point a branch at a commit, under the lock that keeps git from packing it meanwhile.

    `flushed`: returns when it is on disk. Raises WorkspaceError.
    """
    lock = f"{path}.lock"
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            _place(lock, path, f"{commit}\n".encode(), flushed=flushed)
            break
        except FileExistsError:
            if time.monotonic() > deadline_s:
                unlink(lock)
            time.sleep(0.001)
    if flushed:
        flush(os.path.dirname(path))


def unlink(path: str) -> None:
    """Remove a file that may be gone."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def flush(path: str) -> None:
    """Have a file, or a folder's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(temporary: str, path: str, data: bytes, *, flushed: bool = False) -> None:
    """Write `temporary` and rename it. Raises FileExistsError if it is there, else WorkspaceError."""
    while True:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with open(descriptor, "wb", buffering=0) as file:
                file.write(data)
                if flushed:
                    os.fsync(descriptor)
            os.rename(temporary, path)
            return
        except FileNotFoundError:  # git removes the folders that it empties, a packer what is temporary
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except FileExistsError:
            raise
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            raise WorkspaceError(f"{path}: cannot be written: {error.strerror}") from None
