"""What is wrong with a journal, what that costs, and setting the damaged rest aside.

A journal is damaged where a line is not what was written (its hash says so), where a segment is missing, or
where an event cannot follow from the lines before. Everything up to there is intact and is kept; repairing
copies the rest, that line and all after it in all segments, bytes unchanged, into `journal.damaged-<n>.jsonl`
beside it, and then cuts the journal there. An unfinished last line is no damage: it was never acknowledged,
and the next driver cuts it off. A journal that only a newer autohyp can read is not damaged either: it is
refused and left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from autohyp.errors import JournalDamagedError, JournalError, JournalLockedError
from autohyp.journal import CampaignState
from autohyp.journal.file import JournalReader, fsync_directory
from autohyp.journal.segments import START, Position, sealed_numbers, sealed_path, take_lock

__all__ = ["JournalHealth", "Losses", "inspect_journal", "repair_journal"]

_CHUNK_BYTES = 1 << 20


@dataclass
class Losses:
    """What the damaged rest of a journal says, as far as its lines are whole in themselves.

    `experiment_ids` are those it mentions, in order: what was recorded of them there is lost.
    """

    num_lines: int = 0
    num_unreadable: int = 0
    events: Counter[str] = field(default_factory=Counter)
    experiment_ids: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class JournalHealth:
    """What a journal holds; `damaged_line` counts from 1 within `damaged_file` and is None when all is well.

    `end` is the end of what is intact, `rest_bytes` is everything after it.
    """

    num_intact: int
    end: Position
    rest_bytes: int
    damaged_file: Path | None = None
    damaged_line: int | None = None
    reason: str = ""
    losses: Losses = field(default_factory=Losses)

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last line."""
        return 0 if self.damaged_line is not None else self.rest_bytes


def inspect_journal(path: Path) -> JournalHealth:
    """Read the whole journal; raises JournalError when it cannot be read at all."""
    reader, state, end = JournalReader(path), CampaignState(), START
    try:
        for entry in reader.read():
            try:
                state.apply(entry)
            except JournalError as error:
                raise reader.refuse(str(error)) from None
            end = reader.position
    except JournalDamagedError as error:
        if reader.segment > end.segment:
            end = Position(reader.segment, 0, end.seq, end.hash)
        return JournalHealth(
            num_intact=state.version,
            end=end,
            rest_bytes=sum(len(chunk) for chunk in _rest(path, end)),
            damaged_file=reader.file,
            damaged_line=error.line_number,
            reason=str(error),
            losses=_losses(path, state, end),
        )
    end = reader.position
    return JournalHealth(state.version, end, sum(len(chunk) for chunk in _rest(path, end)))


def _rest_files(path: Path, end: Position) -> Iterator[tuple[Path, int]]:
    """The files that hold what comes after `end`, with the offset where it begins in each."""
    names = [sealed_path(path, number) for number in sealed_numbers(path) if number >= end.segment]
    for index, name in enumerate([*names, path]):
        if name.exists():
            yield name, 0 if index else end.offset


def _rest(path: Path, end: Position) -> Iterator[bytes]:
    for name, offset in _rest_files(path, end):
        with name.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


# ---------------------------------------------------------------------------------------------
# What is lost


def _losses(path: Path, state: CampaignState, end: Position) -> Losses:
    losses, experiment_of = Losses(), {}
    for run_id, run in state.in_flight.items():
        experiment_of[run_id] = run.experiment_id
    for name, offset in _rest_files(path, end):
        with name.open("rb") as file:
            file.seek(offset)
            for line in file:
                _count_line(losses, line, experiment_of)
    return losses


def _count_line(losses: Losses, line: bytes, experiment_of: dict[str, str]) -> None:
    losses.num_lines += 1
    fields = _whole_line(line)
    if fields is None:
        losses.num_unreadable += 1
        return
    losses.events[fields["type"]] += 1
    # Most events hold one record that names its experiment, some name it themselves.
    data = fields["data"]
    for record in [data, *(value for value in data.values() if isinstance(value, dict))]:
        run_id, experiment_id = record.get("run_id"), record.get("experiment_id")
        if isinstance(experiment_id, str):
            losses.experiment_ids[experiment_id] = None
            experiment_of[run_id] = experiment_id
        elif run_id in experiment_of:
            losses.experiment_ids[experiment_of[run_id]] = None


def _whole_line(line: bytes) -> dict[str, Any] | None:
    """The fields of a line whose own hash is right, wherever it stands."""
    body, _, tail = line.rpartition(b',"hash":"')
    if tail != hashlib.sha256(body).hexdigest().encode() + b'"}\n':
        return None
    with suppress(ValueError):
        fields = json.loads(body + b"}")
        if isinstance(fields.get("data"), dict) and isinstance(fields.get("type"), str):
            return dict(fields)
    return None


# ---------------------------------------------------------------------------------------------
# Repair


def repair_journal(path: Path) -> tuple[JournalHealth, Path | None]:
    """Set the damaged rest aside; returns what was found and the new file, None when there was no damage.

    The rest is on disk under its new name before the journal is cut, so that a crash in between loses
    nothing, and repairing again completes it. A snapshot of the state is removed: it is made again. Raises
    JournalLockedError while a campaign runs on this journal.
    """
    if not path.exists() and not sealed_numbers(path):
        raise JournalError(f"{path}: cannot be repaired: no journal there")
    try:
        lock_fd = take_lock(path)
    except JournalLockedError:
        raise JournalLockedError(f"{path}: the campaign is running; `autohyp stop` ends it") from None
    try:
        health = inspect_journal(path)
        for snapshot in path.parent.glob(f"{path.stem}.snapshot*"):
            snapshot.unlink()
        if health.damaged_line is None:
            return health, None
        aside = _set_aside(path, health.end)
        _cut(path, health.end)
        return health, aside
    except OSError as error:
        raise JournalError(f"{path}: cannot be repaired: {error.strerror}") from None
    finally:
        os.close(lock_fd)


def _set_aside(path: Path, end: Position) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    with aside.open("xb") as file:
        for chunk in _rest(path, end):
            file.write(chunk)
        _sync(file)
    fsync_directory(path.parent)
    return aside


def _cut(path: Path, end: Position) -> None:
    """Take away what is set aside: the last files first, so that what is left is damaged where it was."""
    files = list(_rest_files(path, end))
    for name, offset in reversed(files):
        if name == path or offset:
            _truncate(name, offset)
        else:
            name.unlink()
        fsync_directory(path.parent)
    path.touch()  # it may be what was missing
    fsync_directory(path.parent)


def _truncate(name: Path, num_bytes: int) -> None:
    """A sealed segment is read-only, and so again afterwards."""
    mode = name.stat().st_mode
    name.chmod(mode | 0o200)
    with name.open("r+b") as file:
        os.ftruncate(file.fileno(), num_bytes)
        _sync(file)
    name.chmod(mode)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
