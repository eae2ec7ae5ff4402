"""experiments.jsonl and results.tsv: one line a decided experiment, appended as decisions come.

A settled experiment's line does not change, so one more must not cost writing 240 MB of 100,000 others
again. Beside the tables, in `.sync/rows`, 49 bytes a line say what the line was rendered from, how long it is
in both files, and its checksum there. So a start need not render anything to find out which lines are right:
it reads the tables once, and drops what follows the first wrong line. A line that did change is replaced by
cutting the file there and appending the rest again.

The index never claims a line that is not in the files: it is cut before them and extended after them. Whoever
reads a table finds whole lines, except that the last may be incomplete in the moment of an append, and after
a crash in that moment until the next sync. Not covered: two writers at once (see `autohyp.views.sync`).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from autohyp.records import Verdict
from autohyp.views.exports import TSV_HEAD

__all__ = ["VERDICTS", "Points", "Row", "Tables", "best_after", "read_points"]

VERDICTS = tuple(Verdict)
"""What the numbers in `Points` stand for."""

Points = npt.NDArray[np.void]
"""What the index says of lines without looking at the tables, a record each, with the fields of `_FIELDS`: a
hundred thousand are looked through in every sync."""

_FIELDS = [
    ("mark", "<u8"), ("best_bpb", "<f8"), ("mean_bpb", "<f8"), ("gain_bpb", "<f8"), ("verdict", "u1"),
    ("jsonl_bytes", "<u4"), ("jsonl_crc", "<u4"), ("tsv_bytes", "<u4"), ("tsv_crc", "<u4"),
]  # fmt: skip
_RECORD = struct.Struct("<QdddBIIII")
_TABLES = ("jsonl", "tsv")
_HEADS = (b"", TSV_HEAD.encode())


class Row(NamedTuple):
    """A decided experiment's line in both tables; what it depends on: `mark`, and the best kept before it.

    `mean_bpb` and `gain_bpb` are NaN where there is none, `best_bpb` is 0 before the first keep.
    """

    mark: int
    best_bpb: float
    mean_bpb: float
    gain_bpb: float
    verdict: Verdict
    jsonl: bytes
    tsv: bytes

    def record(self) -> bytes:
        """What the index keeps of it."""
        lines = (len(self.jsonl), crc32(self.jsonl), len(self.tsv), crc32(self.tsv))
        return _RECORD.pack(*self[:4], VERDICTS.index(self.verdict), *lines)


def read_points(index: bytes) -> Points:
    """The records of an index, `Row.record` one after the other."""
    return np.frombuffer(index, np.dtype(_FIELDS))


def best_after(points: Points) -> npt.NDArray[np.float64]:
    """The best kept bpb including each line's own, 0 while there is none."""
    best, mean = points["best_bpb"], points["mean_bpb"]
    counts = (points["verdict"] == VERDICTS.index(Verdict.KEEP)) & ~np.isnan(mean)
    after: npt.NDArray[np.float64] = np.where(counts, np.where(best == 0, mean, np.minimum(best, mean)), best)
    return after


class Tables:
    """Both tables with their index; `load` first."""

    def __init__(self, jsonl: Path, tsv: Path, index: Path) -> None:
        self._paths = (str(jsonl), str(tsv))
        self._index_path = str(index)
        self._index = bytearray()
        self._sizes = [0, 0]

    def __len__(self) -> int:
        return len(self._index) // _RECORD.size

    def points(self, first: int = 0) -> Points:
        """What is known of the lines from this position on, which counts from 0."""
        return read_points(bytes(self._index[first * _RECORD.size :]))

    def load(self, trusted: bool = True) -> None:
        """Read the index and keep of it what the tables bear out; without trust, nothing."""
        try:
            index = bytearray(Path(self._index_path).read_bytes()) if trusted else bytearray()
        except FileNotFoundError:
            index = bytearray()
        self._index = index[: len(index) // _RECORD.size * _RECORD.size]
        first_wrong = min(self._first_wrong(table) for table in (0, 1))
        self._sizes = [len(_HEADS[table]) + self._num_bytes(table, 0) for table in (0, 1)]
        self._cut(first_wrong)

    def _first_wrong(self, table: int) -> int:
        """The first line of a table that is not what the index says; the number of lines when all are."""
        start = len(_HEADS[table])
        try:
            with open(self._paths[table], "rb") as file:
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
            return 0
        with data, memoryview(data) as view:
            if view[:start] != _HEADS[table]:
                return 0
            lengths = self._lengths(table, 0)
            bounds = (start + np.cumsum(lengths)).tolist()
            checksums = self.points()[f"{_TABLES[table]}_crc"].tolist()
            for position, (end, checksum) in enumerate(zip(bounds, checksums, strict=True)):
                if crc32(view[start:end]) != checksum:
                    return position
                start = end
        return len(self)

    def put(self, rows: Mapping[int, Row]) -> None:
        """Set the lines at these positions, which may go on where the tables end."""
        if not rows:
            return
        first, size = min(rows), _RECORD.size
        records = [bytes(self._index[at : at + size]) for at in range(first * size, len(self._index), size)]
        jsonl, tsv = (self._lines_from(table, first) for table in (0, 1))
        for position in sorted(rows):
            here, row = slice(position - first, position - first + 1), rows[position]
            records[here], jsonl[here], tsv[here] = [row.record()], [row.jsonl], [row.tsv]
        self._cut(first)
        self._append(0, b"".join(jsonl))
        self._append(1, b"".join(tsv))
        with open(self._index_path, "ab") as file:
            file.write(b"".join(records))
        self._index += b"".join(records)

    def cut(self, num_rows: int) -> None:
        """Drop the lines behind the first `num_rows`."""
        if num_rows < len(self):
            self._cut(num_rows)

    def _lengths(self, table: int, first: int) -> npt.NDArray[np.int64]:
        """How long the lines from the first on are, in bytes."""
        lengths: Any = self.points(first)[f"{_TABLES[table]}_bytes"]
        return np.asarray(lengths, np.int64)

    def _num_bytes(self, table: int, first: int) -> int:
        return int(self._lengths(table, first).sum())

    def _lines_from(self, table: int, first: int) -> list[bytes]:
        lengths = self._lengths(table, first).tolist()
        if not lengths:
            return []
        with open(self._paths[table], "rb") as file:
            file.seek(self._sizes[table] - sum(lengths))
            return [file.read(length) for length in lengths]

    def _cut(self, first: int) -> None:
        """Leave exactly the first lines in all three files."""
        offsets = [self._sizes[table] - self._num_bytes(table, first) for table in (0, 1)]
        del self._index[first * _RECORD.size :]
        _cut_file(self._index_path, len(self._index), b"")
        for table in (0, 1):
            _cut_file(self._paths[table], offsets[table], _HEADS[table])
            self._sizes[table] = offsets[table]

    def _append(self, table: int, lines: bytes) -> None:
        with open(self._paths[table], "ab", buffering=0) as file:
            view = memoryview(lines)
            while view:
                view = view[file.write(view) :]
        self._sizes[table] += len(lines)


def _cut_file(path: str, size: int, head: bytes) -> None:
    """Make a file this long; one that is missing, or shorter than its head, gets its head."""
    with suppress(FileNotFoundError):
        if os.stat(path).st_size == size:
            return
        if size > len(head):
            os.truncate(path, size)
            return
    Path(path).write_bytes(head)
