"""A campaign's experiments in memory: those under way as objects, settled ones compressed.

A settled experiment (decided, no run to come) is hardly ever looked at again, and as Python objects it
takes ten times the room: 100,000 of them would fill 4 GB in every process that follows the campaign. So
`Experiments` keeps it as compressed JSON and makes it anew (some 50 us) when somebody asks; what is in a
state's hot path never asks. Handing a whole state on copies bytes, not millions of objects.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, core_schema

from autohyp.records import Decision, Experiment, Run, RunResult, Verdict

__all__ = ["ExperimentEntry", "Experiments", "pack_entry", "unpack_entry"]

CACHE_SIZE = 512
"""Settled experiments kept as objects: a researcher hears of them soon after, and of parents often."""


@dataclass
class ExperimentEntry:
    """An experiment with all that happened to it.

    `seeds` are all runs asked for so far, `active` those on a worker now, `attempts` counts the runs begun
    per seed, `num_faults` those that took their worker with them, `lost_run_ids` names those without a
    result, `failed_on` the workers that failed with one, the latest last; `decided_ordinal` is its place in
    the order of the terminal decisions, from 1.
    """

    experiment: Experiment
    seeds: list[int]
    results: list[RunResult] = field(default_factory=list)
    active: dict[str, Run] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    num_faults: dict[int, int] = field(default_factory=dict)
    lost_run_ids: list[str] = field(default_factory=list)
    failed_on: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    decided_ordinal: int = 0
    first_started_at: str = ""

    @property
    def experiment_id(self) -> str:
        return self.experiment.experiment_id

    @property
    def decision(self) -> Decision | None:
        return self.decisions[-1] if self.decisions else None

    @property
    def verdict(self) -> Verdict | None:
        """The terminal verdict, or None while there is none."""
        last = self.decision
        return last.verdict if last is not None and last.verdict.is_terminal else None

    @property
    def measured(self) -> list[RunResult]:
        return [result for result in self.results if result.is_measured]

    @property
    def scores(self) -> dict[int, float]:
        """val_bpb by seed."""
        return {result.seed: result.val_bpb for result in self.results if result.val_bpb is not None}

    @property
    def mean_bpb(self) -> float | None:
        scores = self.scores
        return sum(scores.values()) / len(scores) if scores else None

    @property
    def pending_seeds(self) -> list[int]:
        """Seeds asked for that neither have a result nor run now."""
        taken = {result.seed for result in self.results} | {run.seed for run in self.active.values()}
        return [seed for seed in self.seeds if seed not in taken]

    @property
    def awaits_decision(self) -> bool:
        """Whether every run asked for is in and nothing was decided on them yet."""
        decided_on = self.decision
        if self.verdict is not None or self.active or self.pending_seeds:
            return False
        return decided_on is None or decided_on.verdict is Verdict.REPLICATE

    @property
    def is_settled(self) -> bool:
        """Whether it is decided and no run of it is under way or to come."""
        return self.verdict is not None and not self.active and not self.pending_seeds

    def knows_run(self, run_id: str) -> bool:
        """Whether this run was ever begun."""
        finished = any(result.run_id == run_id for result in self.results)
        return finished or run_id in self.active or run_id in self.lost_run_ids


_ENTRY = TypeAdapter(ExperimentEntry)


class Experiments(Mapping[str, ExperimentEntry]):
    """Experiments by id, in the order of their creation; an entry that is not open must not be changed."""

    def __init__(self) -> None:
        self._entries: dict[str, ExperimentEntry | bytes] = {}
        self._cache: dict[str, ExperimentEntry] = {}

    def __getitem__(self, experiment_id: str) -> ExperimentEntry:
        entry = self._entries[experiment_id]
        if not isinstance(entry, bytes):
            return entry
        # A dict keeps its order: the entry asked for last is moved to its end, the first is the stalest.
        unpacked = self._cache.pop(experiment_id, None) or unpack_entry(entry)
        self._cache[experiment_id] = unpacked
        if len(self._cache) > CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        return unpacked

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, experiment_id: object) -> bool:
        return experiment_id in self._entries

    def values_once(self) -> Iterator[ExperimentEntry]:
        """All entries in order, without pushing others out of the cache."""
        for entry in self._entries.values():
            yield unpack_entry(entry) if isinstance(entry, bytes) else entry

    def add(self, entry: ExperimentEntry) -> None:
        """A new experiment."""
        self._entries[entry.experiment_id] = entry

    def restore(self, experiment_id: str, entry: ExperimentEntry | bytes) -> None:
        """An experiment from a snapshot: open, or as `packed` gave it."""
        self._entries[experiment_id] = entry

    def open(self, experiment_id: str) -> ExperimentEntry:
        """The entry, to be changed; `settle` it again afterwards."""
        entry = self[experiment_id]
        self._entries[experiment_id] = entry
        self._cache.pop(experiment_id, None)
        return entry

    def settle(self, experiment_id: str) -> None:
        """Nothing more happens to this one for now: keep it compressed."""
        entry = self._entries[experiment_id]
        if isinstance(entry, bytes):
            return
        try:
            self._entries[experiment_id] = pack_entry(entry)
        except PydanticSerializationError:
            return  # half a surrogate pair in some text: Python's strings hold it, UTF-8 does not
        self._cache[experiment_id] = entry

    def packed(self, experiment_id: str) -> bytes | None:
        """The compressed form of a settled experiment, None for one that is not."""
        entry = self._entries[experiment_id]
        return entry if isinstance(entry, bytes) else None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        """A snapshot stores experiments apart from the rest of the state."""
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: object, handler: object) -> dict[str, object]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return {"_entries": self._entries, "_cache": {}}

    def __repr__(self) -> str:
        return f"Experiments({len(self)})"


def pack_entry(entry: ExperimentEntry) -> bytes:
    """The entry as compressed JSON. Raises PydanticSerializationError when a text is no UTF-8."""
    return zlib.compress(_ENTRY.dump_json(entry), 1)


def unpack_entry(packed: bytes) -> ExperimentEntry:
    """The entry that was packed."""
    return _ENTRY.validate_json(zlib.decompress(packed))
