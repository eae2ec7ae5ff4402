"""Writing a view's files: whole or not at all, and only when the content is a new one.

A file that did not change keeps its modification time, so that whoever watches the folder sees what is new.
"""

from __future__ import annotations

import json
import os
from json.encoder import encode_basestring_ascii
from math import isfinite
from pathlib import Path
from typing import Any

__all__ = ["FileWriter", "json_text"]


_encode = json.JSONEncoder(allow_nan=False).encode


def json_text(document: Any) -> str:
    """JSON for people: objects indented, plain lists on a line, ASCII (some readers split at U+2028).

    Written here because `json.dumps` leaves its fast encoder as soon as it is to indent.
    """
    return _indented(document, "\n") + "\n"


def _indented(value: Any, newline: str) -> str:
    deeper = newline + "  "
    if isinstance(value, dict) and value:
        items = [f"{_scalar(key)}: {_indented(item, deeper)}" for key, item in value.items()]
        return "{" + deeper + f",{deeper}".join(items) + newline + "}"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return "[" + deeper + f",{deeper}".join(_indented(item, deeper) for item in value) + newline + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    return "null" if value is None else _encode(value)


class FileWriter:
    """Writes files under one folder and counts what it did.

    Paths are plain strings relative to the folder: with 100,000 experiments the cost of `Path` objects shows.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}{os.sep}"
        self._temporary = f".{os.getpid()}.tmp"
        self._folders: set[str] = set()
        self.num_written = 0
        self.num_unchanged = 0

    def text(self, path: str, content: str) -> bool:
        """Make the file hold `content` (UTF-8); True when it did not before."""
        return self.data(path, content.encode("utf-8"))

    def data(self, path: str, content: bytes) -> bool:
        """Make the file hold `content`; True when it did not before."""
        target = self._root + path
        if _read(target, len(content)) == content:
            self.num_unchanged += 1
            return False
        self._make_folder(target.rpartition(os.sep)[0])
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

    def _make_folder(self, folder: str) -> None:
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)


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


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
