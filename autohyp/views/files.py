"""Writing a view's files: whole or not at all, and only when the content is a new one.

A file that did not change keeps its modification time, so that whoever watches the folder sees what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FileWriter", "json_text"]


_PLAIN = frozenset((str, int, float, bool, type(None)))
_encode = json.JSONEncoder(allow_nan=False).encode
_encoders = [
    json.JSONEncoder(allow_nan=False, separators=(",\n" + "  " * depth, ": ")).encode for depth in range(8)
]
"""By depth: what writes the plain items of an object, each on its line."""


def json_text(document: Any) -> str:
    """JSON for people: objects indented, plain lists on a line, ASCII (some readers split at U+2028).

    Written here because `json.dumps` leaves its fast encoder as soon as it is to indent.
    """
    return _indented(document, 1) + "\n"


def _indented(value: Any, depth: int) -> str:
    deeper, newline = "\n" + "  " * depth, "\n" + "  " * (depth - 1)
    if isinstance(value, dict) and value:
        return "{" + deeper + f",{deeper}".join(_items(value, depth)) + newline + "}"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return "[" + deeper + f",{deeper}".join(_indented(item, depth + 1) for item in value) + newline + "]"
    return _encode(value)


def _items(document: dict[str, Any], depth: int) -> Iterator[str]:
    """The items of an object, plain ones that follow each other in one piece."""
    plain: dict[str, Any] = {}
    for key, value in document.items():
        if type(value) in _PLAIN:
            plain[key] = value
            continue
        if plain:
            yield _encoders[depth](plain)[1:-1]
            plain = {}
        yield f"{_encode(key)}: {_indented(value, depth + 1)}"
    if plain:
        yield _encoders[depth](plain)[1:-1]


class FileWriter:
    """Writes files under one folder and counts what it did.

    Paths are plain strings relative to the folder: with 100,000 experiments the cost of `Path` objects shows.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}{os.sep}"
        self._temporary = f".{os.getpid()}.tmp"
        self.num_written = 0
        self.num_unchanged = 0

    def text(self, path: str, content: str) -> bool:
        """Make the file hold `content` (UTF-8, what it cannot hold as `?`); True when it did not before."""
        return self.data(path, content.encode("utf-8", "replace"))

    def data(self, path: str, content: bytes) -> bool:
        """Make the file hold `content`; True when it did not before."""
        target = self._root + path
        if self._create(target, content):
            self.num_written += 1
            return True
        if _read(target, len(content)) == content:
            self.num_unchanged += 1
            return False
        folder, _, name = target.rpartition(os.sep)
        temporary = f"{folder}{os.sep}.{name}{self._temporary}"
        try:
            _write(temporary, content)
            os.replace(temporary, target)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        self.num_written += 1
        return True

    def _create(self, target: str, content: bytes) -> bool:
        """Write a file that was not there: no other name, no renaming, half the calls."""
        try:
            _write(target, content, os.O_EXCL)
        except FileExistsError:
            return False
        except FileNotFoundError:
            os.makedirs(target.rpartition(os.sep)[0], exist_ok=True)
            return self._create(target, content)
        except BaseException:
            if os.path.exists(target):
                os.unlink(target)
            raise
        return True


def _read(path: str, expected_bytes: int) -> bytes | None:
    """The file's content, or None when it is not there or has another size anyway."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if os.fstat(fd).st_size != expected_bytes:
            return None
        return os.read(fd, expected_bytes + 1)
    finally:
        os.close(fd)


def _write(path: str, content: bytes, how: int = os.O_TRUNC) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
