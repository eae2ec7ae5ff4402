"""Snapshots: the replayed state beside the journal, so that opening it costs what came since.

Two files, both only a cache that may be deleted at any time. `journal.snapshot.bin` holds the settled
experiments, compressed, one record each; a snapshot appends those settled since the last one, so its cost
does not grow with the campaign. `journal.snapshot.json` holds everything else, which is small, the
journal's position it was taken at, and digests of the journal's bytes before that position and of the
records.

Guarantees: a snapshot is used only if no byte of the journal before its position and none of its own has
changed, and if this code would have written it (`_schema`); else the journal is read from its beginning,
which also names what is damaged. A crash while one is written leaves the one before in force.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import TypeAdapter

from autohyp.errors import JournalError
from autohyp.journal.experiments import ExperimentEntry
from autohyp.journal.file import collector_paused
from autohyp.journal.segments import START, Position, open_segment, prefix_hasher
from autohyp.journal.state import CampaignState
from autohyp.paths import write_atomic

if TYPE_CHECKING:
    from hashlib import _Hash as Hasher

__all__ = ["Snapshot", "SnapshotWriter", "load_snapshot", "snapshot_paths"]

_STATE = TypeAdapter(CampaignState)
_OPEN = TypeAdapter(list[ExperimentEntry])
_FROM_EXPERIMENTS = {"experiments", "fingerprints", "hypothesis_ids", "decision_order"}
"""Fields of the state that follow from the experiments."""
_LENGTHS = struct.Struct("<II")


@cache
def _schema() -> str:
    """Changes whenever what is stored changes its form."""
    names = [field.name for field in fields(CampaignState)]
    form = json.dumps([1, names, _STATE.json_schema(), _OPEN.json_schema()], sort_keys=True)
    return hashlib.sha256(form.encode()).hexdigest()


def snapshot_paths(journal: Path) -> tuple[Path, Path]:
    """The snapshot's two files: everything else, and the settled experiments."""
    return journal.with_suffix(".snapshot.json"), journal.with_suffix(".snapshot.bin")


@dataclass(frozen=True)
class Snapshot:
    """A state at a position of the journal; `hasher` has seen the journal's bytes up to there."""

    state: CampaignState
    position: Position
    hasher: Hasher | None
    keys: list[str]
    records: _Records


@dataclass
class _Records:
    """How much of the file of records belongs to the snapshot, and its digest so far."""

    num_bytes: int
    hasher: Hasher


class _Facts(NamedTuple):
    """What the state's indices say of an experiment, so that loading one need not unpack it."""

    name: str
    ordinal: int
    decided_ordinal: int
    fingerprint: str
    hypothesis_id: str

    @classmethod
    def of(cls, entry: ExperimentEntry) -> Self:
        experiment = entry.experiment
        facts = (experiment.ordinal, entry.decided_ordinal, experiment.fingerprint)
        return cls(entry.experiment_id, *facts, experiment.hypothesis.hypothesis_id)


# ---------------------------------------------------------------------------------------------
# Writing


class SnapshotWriter:
    """Takes snapshots of one journal, each from where the last one (`records`) ended."""

    def __init__(self, journal: Path, records: _Records | None = None) -> None:
        self._head, self._file = snapshot_paths(journal)
        self._records = records or _Records(0, hashlib.sha256())
        self._unsaved: dict[str, None] = {}

    def note(self, experiment_id: str) -> None:
        """This experiment changed: if it is settled then, the next snapshot appends it."""
        self._unsaved[experiment_id] = None

    def write(self, state: CampaignState, position: Position, digest: str, keys: Sequence[str]) -> None:
        """Take a snapshot. Raises OSError; the one before is then still good."""
        self._append(state)
        still_open = [name for name in state.experiments if state.experiments.packed(name) is None]
        head = {
            "schema": _schema(),
            "position": asdict(position),
            "journal_sha256": digest,
            "records": {"num_bytes": self._records.num_bytes, "sha256": self._records.hasher.hexdigest()},
            "keys": list(keys),
            "state": _STATE.dump_python(state, mode="json", exclude=_FROM_EXPERIMENTS),
            "open": _OPEN.dump_python([state.experiments[name] for name in still_open], mode="json"),
        }
        text = json.dumps(head, separators=(",", ":"))
        write_atomic(self._head, f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")

    def _append(self, state: CampaignState) -> None:
        """Records of what settled since; what a crashed snapshot left behind the last good one is
        overwritten."""
        records = self._records
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "r+b") as file:
            file.truncate(records.num_bytes)
            file.seek(records.num_bytes)
            payload = b"".join(_record(state, name) for name in self._unsaved)
            file.write(payload)
        records.hasher.update(payload)
        records.num_bytes += len(payload)
        self._unsaved = {name: None for name in self._unsaved if state.experiments.packed(name) is None}


def _record(state: CampaignState, name: str) -> bytes:
    """The experiment with what the state's indices say of it; nothing for one that is not settled."""
    packed = state.experiments.packed(name)
    if packed is None:
        return b""
    head = json.dumps(_Facts.of(state.experiments[name])).encode()
    return _LENGTHS.pack(len(head), len(packed)) + head + packed


# ---------------------------------------------------------------------------------------------
# Reading


def load_snapshot(journal: Path, *, verify: bool = True) -> Snapshot | None:
    """The journal's snapshot, None when there is none that can be used.

    With `verify` the journal's bytes before it are compared with its digest; without, only the line before it
    is: enough for a view, which is made again.
    """
    head_path, records_path = snapshot_paths(journal)
    try:
        text, _, digest = head_path.read_bytes().rstrip().rpartition(b"\n")
        head = json.loads(text)
        if head["schema"] != _schema() or hashlib.sha256(text).hexdigest() != digest.decode():
            return None
        position = Position(**head["position"])
        with ThreadPoolExecutor(1) as elsewhere, collector_paused():
            hashing = elsewhere.submit(prefix_hasher, journal, position) if verify else None
            packed = _read_records(records_path, head["records"])
            state = None if packed is None else _state(head, packed[0])
            hasher = hashing.result() if hashing else None
        if state is None or packed is None:
            return None
        if hasher.hexdigest() != head["journal_sha256"] if hasher else not _ends_there(journal, position):
            return None
    except (OSError, ValueError, KeyError, TypeError, JournalError):
        return None
    return Snapshot(state, position, hasher, head["keys"], packed[1])


def _read_records(path: Path, facts: dict[str, Any]) -> tuple[bytes, _Records] | None:
    with path.open("rb") as file:
        data = file.read(facts["num_bytes"])
    hasher = hashlib.sha256(data)
    if len(data) != facts["num_bytes"] or hasher.hexdigest() != facts["sha256"]:
        return None
    return data, _Records(len(data), hasher)


def _ends_there(journal: Path, position: Position) -> bool:
    """Whether the line before the position is the one that it was taken after."""
    if position == START:
        return True
    segment = open_segment(journal, position.segment)
    if segment is None:
        return False
    with segment.file as file:
        file.seek(max(0, position.offset - 128))
        return file.read(min(128, position.offset)).endswith(f'"{position.hash}"}}\n'.encode())


def _state(head: dict[str, Any], records: bytes) -> CampaignState:
    """The state: experiments in the order of their creation, and the indices that follow from them."""
    state = _STATE.validate_python(head["state"])
    still_open = _OPEN.validate_python(head["open"])
    # A later record of the same experiment is the newer one, and what is open now is newest.
    found = {facts.name: (facts, packed) for facts, packed in _split(records)}
    found |= {entry.experiment_id: (_Facts.of(entry), entry) for entry in still_open}
    in_order = sorted(found.values(), key=lambda pair: pair[0].ordinal)
    state.hypothesis_ids = state.queue.keys() | state.refused.keys()
    for facts, entry in in_order:
        state.experiments.restore(facts.name, entry)
        state.fingerprints.setdefault(facts.fingerprint, facts.name)
        state.hypothesis_ids.add(facts.hypothesis_id)
    decided = sorted((facts.decided_ordinal, facts.name) for facts, _ in in_order if facts.decided_ordinal)
    state.decision_order = [name for _, name in decided]
    for entry in still_open:
        entry.active.update((run_id, state.in_flight[run_id]) for run_id in entry.active)
    return state


def _split(records: bytes) -> Iterator[tuple[_Facts, bytes | ExperimentEntry]]:
    offset = 0
    while offset < len(records):
        head_bytes, packed_bytes = _LENGTHS.unpack_from(records, offset)
        start = offset + _LENGTHS.size
        middle = start + head_bytes
        offset = middle + packed_bytes
        yield _Facts(*json.loads(records[start:middle])), records[middle:offset]
