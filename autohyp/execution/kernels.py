"""Compiled kernels, made once for a kept experiment and lent to the runs of those that build on it.

On a GPU compilation takes a minute before every run, and most edits change nothing of what is compiled. But a
cache that runs write to would be a channel between them: one could leave its weights there for the next, or
kernels that do something else. So nothing that a measured run wrote is ever kept. The kernels of an
experiment are made by running its train.py in the sandbox once more, for a moment, on data that says nothing
(`write_blank_data`): what it leaves cannot hold anything that was learned, only what follows from its source.
They are lent only to runs of its direct descendants, whose source begins with that source; each gets a copy
of its own, and what becomes of the copy is thrown away with the run.

torch looks kernels up by the hash of what they were compiled from (PyTorch's recipe "Compile Time Caching
in torch.compile"), so a copy elsewhere serves as well, and an edit that changes a graph compiles that anew.

Not covered: other caches than files below `job.scratch_dir / "cache"`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from autohyp.errors import AutohypError
from autohyp.execution.workspace import remove_tree

__all__ = ["KernelShelf", "write_blank_data"]

log = logging.getLogger(__name__)

KEPT_SHELVES = 4
MAX_DEPTH = 16
POLL_S = 0.2

Compile = Callable[[], Path | None]
"""Compiles, and returns the folder of what it wrote; None when it could not."""


class KernelShelf:
    """The kernels on one node, a folder for every commit; workers of several processes share it.

    A commit whose kernels could not be made has an empty folder, and is not tried again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lend(self, commit: str, target: Path, compile_kernels: Compile, cancelled: Callable[[], bool]) -> int:
        """Copy the commit's kernels below `target`, and return how many files that were.

        The first caller compiles them, the others wait for it: side by side they would take as long. Never
        raises for what goes wrong here, for a run without kernels makes its own.
        """
        shelf = self._folder / commit
        try:
            if not shelf.is_dir():
                with self._alone(commit, cancelled) as has_entered:
                    if has_entered and not shelf.is_dir():
                        self._fill(shelf, compile_kernels, cancelled)
            if not shelf.is_dir():
                return 0
            os.utime(shelf)
            return _copy_files(shelf, target)
        except OSError:
            log.exception("kernels of %s could not be lent", commit[:12])
            return 0

    def _fill(self, shelf: Path, compile_kernels: Compile, cancelled: Callable[[], bool]) -> None:
        unfinished = shelf.with_name(f"{shelf.name}.unfinished")
        remove_tree(unfinished)
        unfinished.mkdir()
        try:
            made = compile_kernels()
            if made is not None:
                _copy_files(made, unfinished)
        except (AutohypError, OSError):
            log.exception("kernels of %s could not be made", shelf.name[:12])
            remove_tree(unfinished)
            unfinished.mkdir()
        if cancelled():
            remove_tree(unfinished)
            return
        unfinished.rename(shelf)
        self._forget_old()

    def _forget_old(self) -> None:
        shelves = [path for path in self._folder.iterdir() if path.is_dir() and not path.suffix]
        for shelf in sorted(shelves, key=lambda path: path.stat().st_mtime)[:-KEPT_SHELVES]:
            remove_tree(shelf)

    @contextmanager
    def _alone(self, commit: str, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Whether this caller may work on the commit; the kernel lets go for one that died."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{commit}.lock").open("wb") as lock:
            while not cancelled():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(POLL_S)
                else:
                    yield True
                    return
            yield False


def _copy_files(source: Path, target: Path, depth: int = 0) -> int:
    """Copy regular files and folders, and nothing else that a run may have left there."""
    count = 0
    target.mkdir(parents=True, exist_ok=True)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                count += _copy_files(Path(entry.path), target / entry.name, depth + 1)
            elif entry.is_file(follow_symlinks=False):
                shutil.copyfile(entry.path, target / entry.name, follow_symlinks=False)
                count += 1
    return count


def write_blank_data(data_dir: Path, folder: Path) -> None:
    """A prepared folder of the same shapes with the same tokenizer, in which every token is 0.

    The files of tokens are holes that take no disk space.
    """
    shutil.copytree(data_dir / "tokenizer", folder / "tokenizer")
    shutil.copy(data_dir / "meta.json", folder)
    for split in ("train", "val", "holdout"):
        (folder / split).mkdir()
        for path in sorted((data_dir / split).iterdir()):
            blank = folder / split / path.name
            if path.name == "rows.npy":
                shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
                np.save(blank, np.zeros(shape, np.uint16))
            elif path.name.endswith(".idx.npy"):  # where documents begin
                shutil.copy(path, blank)
            else:
                with blank.open("wb") as file:
                    file.truncate(path.stat().st_size)
