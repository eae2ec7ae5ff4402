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
from dataclasses import dataclass
from typing import Any, ClassVar

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
    "WorkerDrained",
    "decode_line",
    "encode_line",
]

FORMAT_VERSION = 1
GENESIS = "0" * 64
_HASH_FIELD = b',"hash":"'
_DATA_FIELD = b',"data":'
_PREV_FIELD = b',"prev":'
_TAIL_BYTES = len(_HASH_FIELD) + 64 + 2
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


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
    """A driver took up the campaign on some machine."""

    type = "session_started"
    session_id: str
    host: str
    hardware: Hardware
    sandbox: str
    versions: dict[str, str]


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
    """A run has its result."""

    type = "run_finished"
    result: RunResult


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


@dataclass(frozen=True)
class Draft:
    """An event on its way into the journal; two drafts with one `key` are the same fact."""

    key: str
    event: Event


@dataclass(frozen=True)
class Entry:
    """An event that is in the journal."""

    seq: int
    ts: str
    key: str
    event: Event
    hash: str


def encode_line(seq: int, ts: str, draft: Draft, previous_hash: str) -> tuple[bytes, str]:
    """The line's bytes with its newline, and its hash."""
    body = _encode(
        {
            "v": FORMAT_VERSION,
            "seq": seq,
            "ts": ts,
            "type": draft.event.type,
            "key": draft.key,
            "data": draft.event.model_dump(mode="json"),
            "prev": previous_hash,
        }
    ).encode()[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return body + _HASH_FIELD + digest.encode() + b'"}\n', digest


def decode_line(line: bytes, seq: int, previous_hash: str) -> Entry:
    """Check one line (without its newline) against its place and return its entry.

    Raises ValueError with the reason when the bytes are not what was written there.
    """
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if not tail.startswith(_HASH_FIELD) or not tail.endswith(b'"}'):
        raise ValueError("it does not end in a hash")
    digest = tail[len(_HASH_FIELD) : -2].decode("ascii", "replace")
    if hashlib.sha256(body).hexdigest() != digest:
        raise ValueError("its content does not match its hash")
    # A quote within a JSON string is escaped, so these are the line's own fields. The event's JSON goes to
    # pydantic as it is: parsing it here first takes almost twice as long.
    head, _, rest = body.partition(_DATA_FIELD)
    data, _, previous = rest.rpartition(_PREV_FIELD)
    fields = json.loads(head + b"}")
    if fields["v"] != FORMAT_VERSION:
        raise ValueError(
            f"format version {fields['v']} needs a newer autohyp (this one reads {FORMAT_VERSION})"
        )
    if fields["seq"] != seq or previous != b'"%s"' % previous_hash.encode():
        raise ValueError(
            f"it says seq {fields['seq']} where {seq} belongs: lines are missing or out of order"
        )
    event_type = EVENT_TYPES.get(fields["type"])
    if event_type is None:
        raise ValueError(f"unknown event type {fields['type']!r}: a newer autohyp wrote it")
    try:
        event = event_type.model_validate_json(data)
    except ValueError:
        # Python reads and writes half a surrogate pair, pydantic's parser does not.
        event = event_type.model_validate(json.loads(data))
    return Entry(seq, fields["ts"], fields["key"], event, digest)
