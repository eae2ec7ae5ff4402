"""What can happen in a campaign: one frozen model per event type, and the line format.

A journal line is one JSON object with the fields `v` (format version), `seq` (from 1), `ts`, `type`, `key`
(idempotency), `data` (the event), `prev` (the `hash` of the line before, 64 zeros for the first) and last
`hash`: the SHA-256 of the line's bytes up to the comma before it. So a reader checks a line without
parsing it, and a changed byte anywhere, the last line included, is noticed.

To add an event type: a class here, an `_apply_` in `state.py`, a test file of each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic_core import PydanticSerializationError

from autohyp.journal.migrations import NewerFormatError, migrate
from autohyp.records import Decision, Experiment, Finding, Hardware, Hypothesis, Record, Run, RunResult, Tool

__all__ = [
    "EVENT_TYPES",
    "FORMAT_VERSION",
    "GENESIS",
    "CampaignCreated",
    "CampaignEnded",
    "DecisionMade",
    "Draft",
    "Entry",
    "Event",
    "ExperimentCreated",
    "FindingRecorded",
    "HypothesisProposed",
    "HypothesisRefused",
    "LineOutOfPlaceError",
    "NoteWritten",
    "PauseChanged",
    "RunFinished",
    "RunLost",
    "RunStarted",
    "RunsRequested",
    "SessionEnded",
    "SessionStarted",
    "StopRequested",
    "ToolChanged",
    "WireDraft",
    "WireEntry",
    "WorkerDrained",
    "decode_line",
    "encode_line",
    "parse_event",
]

FORMAT_VERSION = 2
GENESIS = "0" * 64
_HASH_FIELD = b',"hash":"'
_DATA_FIELD = b',"data":'
_PREV_FIELD = b',"prev":'
_TAIL_BYTES = len(_HASH_FIELD) + 64 + 2
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_escape = json.encoder.encode_basestring_ascii


class Event(Record):
    """Base of all events; `type` is the name in the journal."""

    type: ClassVar[str]


class CampaignCreated(Event):
    """The first event: what is searched, on which data, under which configuration."""

    type = "campaign_created"
    tag: str
    objective: str
    config: dict[str, Any]
    target_sha256: dict[str, str]
    data_sha256: str
    created_at: str


class SessionStarted(Event):
    """A driver took up the campaign on some machine; `limits` are those that hold in this session, None where
    that was not recorded."""

    type = "session_started"
    session_id: str
    host: str
    hardware: Hardware
    sandbox: str
    versions: dict[str, str]
    limits: dict[str, int | float] | None = None


class SessionEnded(Event):
    """A driver laid the campaign down; it can be resumed."""

    type = "session_ended"
    session_id: str
    reason: str


class HypothesisProposed(Event):
    """A researcher proposed something."""

    type = "hypothesis_proposed"
    hypothesis: Hypothesis


class HypothesisRefused(Event):
    """Preflight refused a hypothesis, or the champion it was made for is gone."""

    type = "hypothesis_refused"
    hypothesis_id: str
    reason: str


class ExperimentCreated(Event):
    """A hypothesis became a commit and waits for its runs."""

    type = "experiment_created"
    experiment: Experiment


class RunStarted(Event):
    """A worker took a run."""

    type = "run_started"
    run: Run


class RunLost(Event):
    """A run ended without a result and is to be tried again; `at_fault` when it may have killed its
    worker."""

    type = "run_lost"
    run_id: str
    reason: str
    at_fault: bool = True


class RunsRequested(Event):
    """More runs of a decided experiment are wanted, to know its mean better."""

    type = "runs_requested"
    experiment_id: str
    seeds: tuple[int, ...]
    reason: str


class RunFinished(Event):
    """A run has its result; `worker_failed` when that is that its worker failed once too often."""

    type = "run_finished"
    result: RunResult
    worker_failed: bool = False


class DecisionMade(Event):
    """A policy decided; a keep makes the experiment the champion."""

    type = "decision_made"
    decision: Decision


class FindingRecorded(Event):
    """Something was learnt; a finding of the same id replaces the one before."""

    type = "finding_recorded"
    finding: Finding


class ToolChanged(Event):
    """A tool was requested, published, adopted or discarded."""

    type = "tool_changed"
    tool: Tool


class NoteWritten(Event):
    """Free text of a person or an agent, about an experiment or the campaign."""

    type = "note_written"
    author: str
    text: str
    experiment_id: str | None = None


class PauseChanged(Event):
    """Somebody paused the campaign (what runs is let finish, nothing new starts) or let it go on."""

    type = "pause_changed"
    paused: bool
    author: str


class StopRequested(Event):
    """Somebody asked the running session to end: at once (`now`), or when what runs has finished."""

    type = "stop_requested"
    session_id: str
    now: bool
    author: str
    reason: str = "it was stopped"


class WorkerDrained(Event):
    """A worker failed again and again: it gets no more runs in this session."""

    type = "worker_drained"
    worker_id: str
    reason: str


class CampaignEnded(Event):
    """A limit was reached or somebody ended the campaign for good; a new session opens it again."""

    type = "campaign_ended"
    reason: str


EVENT_TYPES: dict[str, type[Event]] = {
    event.type: event
    for event in (
        CampaignCreated,
        SessionStarted,
        SessionEnded,
        HypothesisProposed,
        HypothesisRefused,
        ExperimentCreated,
        RunStarted,
        RunLost,
        RunsRequested,
        RunFinished,
        DecisionMade,
        FindingRecorded,
        ToolChanged,
        NoteWritten,
        PauseChanged,
        StopRequested,
        WorkerDrained,
        CampaignEnded,
    )
}


WireDraft = tuple[str, str, bytes]
"""A draft as it is sent: key, type of the event, the event as JSON."""


WireEntry = tuple[int, str, str, str, bytes]
"""An entry as the ledger sends it: seq, ts, key, type of the event, the event as JSON."""


@dataclass(frozen=True)
class Draft:
    """An event on its way into the journal; two drafts with one `key` are the same fact.

    It travels and is stored as JSON, encoded once, by whoever made it (`wire`, `from_wire`).
    """

    key: str
    event: Event
    _data: bytes = field(default=b"", compare=False, repr=False)

    @property
    def data(self) -> bytes:
        """The event as JSON. Raises ValueError when it holds what JSON cannot."""
        return self._data or _event_json(self.event)

    def wire(self) -> WireDraft:
        """What is sent to the ledger. Raises ValueError when the event holds what JSON cannot."""
        return self.key, self.event.type, self.data

    @classmethod
    def from_wire(cls, wire: WireDraft) -> Self:
        """The draft that was sent, checked. Raises ValueError when it is none."""
        key, event_type, data = wire
        if b"\n" in data:
            raise ValueError("an event is one line")
        return cls(key, parse_event(event_type, data), data)


@dataclass(frozen=True)
class Entry:
    """An event that is in the journal."""

    seq: int
    ts: str
    key: str
    event: Event
    hash: str = ""

    @classmethod
    def from_wire(cls, wire: WireEntry) -> Self:
        """The entry that the ledger sent."""
        seq, ts, key, event_type, data = wire
        return cls(seq, ts, key, parse_event(event_type, data))


def parse_event(event_type: str, data: bytes) -> Event:
    """The event of this type in JSON.

    Raises ValueError when it is none, NewerFormatError for an unknown type.
    """
    model = EVENT_TYPES.get(event_type)
    if model is None:
        raise NewerFormatError(f"has an event that this autohyp does not know, {event_type!r}")
    try:
        # The JSON as it is: parsing it here first takes almost twice as long.
        return model.model_validate_json(data)
    except ValueError:
        # Python reads and writes half a surrogate pair, pydantic's parser does not.
        return model.model_validate(json.loads(data))


def _event_json(event: Event) -> bytes:
    try:
        data = event.model_dump_json().encode()
    except PydanticSerializationError:
        return _encode(event.model_dump(mode="json")).encode()
    if b"NaN" in data or b"Infinity" in data:  # as a number, which JSON has not, or only as a word
        return _encode(event.model_dump(mode="json")).encode()
    return data


class LineOutOfPlaceError(ValueError):
    """A line is whole, and not the one that follows the line before."""


def encode_line(seq: int, ts: str, draft: Draft, previous_hash: str) -> tuple[bytes, str]:
    """The line's bytes with its newline, and its hash."""
    head = f'{{"v":{FORMAT_VERSION},"seq":{seq},"ts":{_escape(ts)},"type":"{draft.event.type}"'
    body = b'%s,"key":%s,"data":%s,"prev":"%s"' % (
        head.encode(),
        _escape(draft.key).encode(),
        draft.data,
        previous_hash.encode(),
    )
    digest = hashlib.sha256(body).hexdigest()
    return body + _HASH_FIELD + digest.encode() + b'"}\n', digest


def decode_line(line: bytes, seq: int, previous_hash: str) -> Entry:
    """Check one line (without its newline) against its place and return its entry.

    Raises ValueError with the reason when the bytes are not what was written there: LineOutOfPlaceError when
    the line is whole but belongs elsewhere, NewerFormatError when only a newer autohyp can read it.
    """
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if not tail.startswith(_HASH_FIELD) or not tail.endswith(b'"}'):
        raise ValueError("it does not end in a hash")
    digest = tail[len(_HASH_FIELD) : -2].decode("ascii", "replace")
    if hashlib.sha256(body).hexdigest() != digest:
        raise ValueError("its content does not match its hash")
    # A quote within a JSON string is escaped, so these are the line's own fields.
    head, _, rest = body.partition(_DATA_FIELD)
    data, _, previous = rest.rpartition(_PREV_FIELD)
    fields = json.loads(head + b"}")
    version, event_type = fields.get("v"), fields.get("type")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise NewerFormatError(f"has format version {version}, and this autohyp reads up to {FORMAT_VERSION}")
    if fields["seq"] != seq or previous != b'"%s"' % previous_hash.encode():
        raise LineOutOfPlaceError(
            f"it says seq {fields['seq']} where {seq} belongs: lines are missing or out of order"
        )
    return Entry(seq, fields["ts"], fields["key"], _decode_event(version, event_type, data), digest)


def _decode_event(version: int, event_type: str, data: bytes) -> Event:
    if version != FORMAT_VERSION:
        event_type, content = migrate(version, event_type, json.loads(data))
        data = _encode(content).encode()
    return parse_event(event_type, data)
