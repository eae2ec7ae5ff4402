"""The process tree of one run: who belongs to it, what it uses, ending it.

Works from /proc for the descendants of one process, which must be a child sub-reaper so that nobody
leaves the tree: an orphan becomes the sub-reaper's child wherever it has moved its session to.
Sampling is approximate (processes come and go meanwhile); ending is exact, because it repeats until
the kernel says that no child is left. Imported by the supervisor of every run: it imports little.
"""

from __future__ import annotations

import os
import select
import signal
import stat

__all__ = [
    "NamelessUsage",
    "TreeUsage",
    "descendants",
    "disk_usage_mb",
    "kill_all_children",
    "nameless_usage",
    "tree_usage",
]

_RETRY_MS = 2
_MIN_BLOCKS = 8
"""An empty file counts as 4 KiB: it takes an inode, and a disk has only so many."""


class TreeUsage:
    """Memory (MB, anonymous and shared), processes, and tasks (threads too) of a tree."""

    __slots__ = ("memory_mb", "processes", "tasks")

    def __init__(self, memory_mb: float, processes: int, tasks: int) -> None:
        self.memory_mb = memory_mb
        self.processes = processes
        self.tasks = tasks


def descendants(pid: int) -> list[tuple[int, int]]:
    """(process, its parent) for all below `pid`, parents first."""
    found: list[tuple[int, int]] = []
    pending = [pid]
    seen = {pid}
    while pending:
        parent = pending.pop()
        for child in _children(parent):
            if child not in seen:
                seen.add(child)
                found.append((child, parent))
                pending.append(child)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:  # it is gone; its children have moved up to the sub-reaper
        pass
    return children


def tree_usage(pid: int, exact: bool = False) -> TreeUsage:
    """What all descendants of `pid` use together.

    Pages that a fork shares count once for each process, unless `exact`, which costs the kernel a
    walk through the page tables.
    """
    kilobytes = tasks = 0
    found = descendants(pid)
    for child, _ in found:
        try:
            status = _fields(f"/proc/{child}/status", (b"RssAnon", b"RssShmem", b"Threads"))
            tasks += status.get(b"Threads", 0)
            resident = status.get(b"RssAnon", 0) + status.get(b"RssShmem", 0)
            kilobytes += _proportional_kb(child, resident) if exact else resident
        except OSError:
            continue
    return TreeUsage(kilobytes / 1024, len(found), tasks)


def _proportional_kb(pid: int, fallback: int) -> int:
    try:
        shares = _fields(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon", b"Pss_Shmem"))
    except OSError:
        return fallback
    return sum(shares.values()) if shares else fallback


def _fields(path: str, names: tuple[bytes, ...]) -> dict[bytes, int]:
    values = {}
    for line in _read(path).splitlines():
        name, _, rest = line.partition(b":")
        if name in names:
            values[name] = int(rest.split()[0])
    return values


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while piece := os.read(descriptor, 65536):
            content += piece
        return content
    finally:
        os.close(descriptor)


def disk_usage_mb(folders: list[str]) -> float:
    """Disk space (MB) of all that has a name below the folders.

    Infinite where a folder cannot be looked into (made unreadable, or its path is too long): a run that
    could hide its files so would have no limit.
    """
    blocks = 0
    pending = list(folders)
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    blocks += max(_MIN_BLOCKS, entry.stat(follow_symlinks=False).st_blocks)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # removed or replaced while we looked
            continue
        except OSError:
            return float("inf")
    return blocks * 512 / 2**20


class NamelessUsage:
    """What the open files without a name take (MB): memory files, and files that were removed."""

    __slots__ = ("disk_mb", "memory_mb")

    def __init__(self, disk_mb: float, memory_mb: float) -> None:
        self.disk_mb = disk_mb
        self.memory_mb = memory_mb


def nameless_usage(pid: int) -> NamelessUsage:
    """The nameless files that descendants of `pid` hold open, each counted once.

    Not seen: those that are mapped but closed, or under way in a socket.
    """
    blocks: dict[tuple[int, int], tuple[int, bool]] = {}
    for child, _ in descendants(pid):
        folder = f"/proc/{child}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        for number in numbers:
            try:
                status = os.stat(f"{folder}/{number}")
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    in_memory = os.readlink(f"{folder}/{number}").startswith("/memfd:")
                    blocks[status.st_dev, status.st_ino] = (status.st_blocks, in_memory)
            except OSError:  # closed while we looked
                continue
    memory = sum(count for count, in_memory in blocks.values() if in_memory)
    disk = sum(count for count, in_memory in blocks.values() if not in_memory)
    return NamelessUsage(disk * 512 / 2**20, memory * 512 / 2**20)


def kill_all_children() -> dict[int, int]:
    """Kill and reap every descendant of this process; {child: wait status} of its children.

    The caller is a child sub-reaper and has no child that it wants to keep.
    """
    statuses: dict[int, int] = {}
    waiter = select.poll()
    while True:
        for child, parent in descendants(os.getpid()):
            _kill(child, parent)
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                statuses[reaped[0]] = reaped[1]
        except ChildProcessError:
            return statuses
        waiter.poll(_RETRY_MS)


def _kill(pid: int, parent: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The number may have passed to a stranger between listing and opening.
        if _parent_of(pid) in (parent, os.getpid()):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(handle)


def _parent_of(pid: int) -> int:
    status = _read(f"/proc/{pid}/stat")
    return int(status.rpartition(b")")[2].split()[1])
