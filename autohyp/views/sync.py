"""Write a campaign's folder from its journal: all but the journal, the repository and the logs is a view.

`sync_all` brings the whole folder to a state, `FolderSync` does it again and again while things happen. The
same journal gives the same bytes on every machine (no present time, no path, nothing of the host), and a file
that would not change is left alone. Views never delete: logs, `live/` and what others put there stay.

How it knows what to do: `.sync/experiments` holds 16 bytes an experiment, a digest of all that its files were
made from, and the time at which a name in `runs/<id>/` changed last; both are written after the files. The
digest of a settled experiment is that of its compressed form in the state: nothing is decoded to compare it.
An experiment is written (each file compared, replaced whole when it differs) when its digest is another, when
a name in its folder came or went, or when a name is missing in `plans/`. `.sync/rows` does the same for the
tables (`autohyp.views.tables`). So a file that was deleted, or replaced by an editor, comes back; one whose
bytes were changed in place does with `force`, or when `.sync` is deleted. Files are not fsynced: after a
machine went down, what was written in its last minute is compared again. One syncs at a time, others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from math import nan
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic_core import PydanticSerializationError

from autohyp.errors import CampaignError
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.experiments import pack_entry
from autohyp.journal.file import collector_paused
from autohyp.paths import CampaignPaths
from autohyp.views import exports, files, plans, text
from autohyp.views.brief import research_brief, search_model, tool_registry
from autohyp.views.files import FileWriter, json_text
from autohyp.views.fleet import fleet_files, fleet_manifest
from autohyp.views.picture import draw_progress, picture_data, picture_is_current
from autohyp.views.tables import Points, Row, Tables, best_after

__all__ = ["FolderSync", "SyncReport", "sync_all"]

_Result = TypeVar("_Result")
_Notes = list[tuple[str, str]]
_MARK = Struct("<QQ")
_CHUNK = 100
_MIN_PARALLEL = 2000
_MIN_PARALLEL_LOOK = 20_000
"""Below this many experiments to write, or to look at, further processes are not worth their start."""
_UNSAFE_S = 60
"""How long the kernel may keep to itself what was written (30 s by default), with room to spare."""
_RENDERERS = hashlib.blake2b(
    b"".join(Path(str(module.__file__)).read_bytes() for module in (exports, files, plans, text))
).digest()[:8]
"""Part of every digest: files made by another version of this code are made again."""


@dataclass(frozen=True)
class SyncReport:
    """What a sync did, in files; of experiments that nothing happened to, none is counted."""

    num_experiments: int
    num_written: int
    num_unchanged: int

    @property
    def summary(self) -> str:
        written = f"{self.num_written} files written, {self.num_unchanged} compared and found right"
        return f"{self.num_experiments} experiments: {written}"


def sync_all(paths: CampaignPaths, state: CampaignState, force: bool = False) -> SyncReport:
    """Bring every view of the campaign to this state; with `force`, trust nothing that was written before."""
    folder = FolderSync(paths)
    report = folder.experiments(state, force=force)
    shared = folder.shared(state)
    written, unchanged = report.num_written + shared.num_written, report.num_unchanged + shared.num_unchanged
    return SyncReport(len(state.experiments), written, unchanged)


# ---------------------------------------------------------------------------------------------
# One experiment


class _Job(NamedTuple):
    """An experiment to write: its files, its line in the tables (when `position` is set), or both."""

    experiment_id: str
    number: int
    mark: int
    has_files: bool
    position: int | None = None
    best_bpb: float = 0.0


class _Done(NamedTuple):
    """What came of a job; `workers` are (worker id, time of a result, GPU id)."""

    job: _Job
    mtime_ns: int
    num_written: int
    num_unchanged: int
    row: Row | None
    workers: list[tuple[str, str, str]]


def _write_files(writer: FileWriter, entry: ExperimentEntry, measured: dict[str, object], note: str) -> None:
    name = entry.experiment_id
    writer.text(f"plans/{name}.json", json_text(plans.plan_document(entry)))
    writer.text(f"plans/{name}.md", note)
    writer.text(f"runs/{name}/config.json", json_text(exports.config_document(entry)))
    writer.text(f"runs/{name}/diff.patch", entry.experiment.diff)
    if not entry.results and not entry.active:
        return
    writer.text(f"runs/{name}/metadata.json", json_text(exports.metadata_document(entry, measured)))
    writer.text(f"runs/{name}/events.jsonl", exports.jsonl(exports.run_events(entry)))
    result = exports.result_document(entry, measured)
    if result is not None:
        writer.text(f"runs/{name}/result.json", json_text(result))


def _carry_out(root: Path, state: CampaignState, notes: dict[str, _Notes], jobs: list[_Job]) -> list[_Done]:
    """Render each experiment once, for its files and for the tables."""
    done = []
    for job in jobs:
        entry = state.experiments[job.experiment_id]
        measured = exports.metrics(entry)
        note = plans.plan_note(entry, notes.get(job.experiment_id))
        writer, mtime_ns = FileWriter(root), 0
        if job.has_files:
            _write_files(writer, entry, measured, note)
            mtime_ns = _changed_ns(f"{root}/runs/{job.experiment_id}")
        row = None if job.position is None else _row(entry, measured, job.position, job, note)
        workers = [(result.worker_id, result.finished_at, result.gpu_id) for result in entry.results]
        done.append(_Done(job, mtime_ns, writer.num_written, writer.num_unchanged, row, workers))
    return done


def _row(entry: ExperimentEntry, measured: dict[str, object], position: int, job: _Job, note: str) -> Row:
    document = exports.table_row(entry, measured, position + 1, job.best_bpb or None, note)
    mean, gain = entry.mean_bpb, entry.decision.gain_bpb if entry.decision else None
    if entry.verdict is None:
        raise CampaignError(f"{entry.experiment_id} is in the order of decisions without a verdict")
    return Row(
        job.mark,
        job.best_bpb,
        nan if mean is None else mean,
        nan if gain is None else gain,
        entry.verdict,
        exports.jsonl([document]).encode(),
        exports.tsv_row(document).encode("utf-8", "replace"),
    )


def _num_right(points: Points, wanted: npt.NDArray[np.uint64], best: float) -> tuple[int, float]:
    """How many lines in a row are what they should be, and the best kept bpb after them; `best` is before."""
    points = points[: len(wanted)]
    after = best_after(points)
    before = np.concatenate([[best], after[:-1]])[: len(points)]
    is_right = (wanted != 0) & (wanted == points["mark"]) & (before == points["best_bpb"])
    count = len(points) if is_right.all() else int(is_right.argmin())
    return count, float(after[count - 1]) if count else best


def _mark(state: CampaignState, experiment_id: str, notes: _Notes | None) -> int:
    """A digest of all that an experiment's files depend on; 0, which never counts as written, for text that
    is no UTF-8."""
    packed = state.experiments.packed(experiment_id)
    if packed is None:
        try:
            packed = pack_entry(state.experiments[experiment_id])
        except PydanticSerializationError:
            return 0
    if notes:
        packed += repr(notes).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8, salt=_RENDERERS).digest(), "little")


def _changed_ns(folder: str) -> int:
    """When a name in the folder came, went or was replaced last; 0 when there is no folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


# ---------------------------------------------------------------------------------------------
# All of them


@dataclass
class _Plan:
    """What is to be written: experiments by id with (number from 0, mark), and lines from `first` on."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    first: int = 0


class FolderSync:
    """Brings one campaign's folder to newer and newer states; what it wrote it need not look at again."""

    def __init__(self, paths: CampaignPaths, processes: int | None = None) -> None:
        self._paths = paths
        self._hidden = paths.root / ".sync"
        self._tables = Tables(paths.experiments, paths.results, self._hidden / "rows")
        self._marks = bytearray()
        self._workers: dict[str, tuple[str, str]] = {}
        self._left_at: object = None
        self._processes = processes if processes is not None else os.cpu_count() or 1

    def experiments(
        self, state: CampaignState, touched: Iterable[str] | None = None, force: bool = False
    ) -> SyncReport:
        """Write the experiments' files and the tables; only `touched` changed since the last call.

        When somebody else wrote the folder since, or nobody knows what changed (None), all are looked at.
        """
        with self._alone() as is_as_left, collector_paused():
            notes = plans.notes_by_experiment(state)
            if touched is None or force or not is_as_left:
                self._load(force)
                plan = self._look_at_all(state, notes)
            else:
                plan = self._look_at(state, notes, touched)
            self._tables.cut(len(state.decision_order))
            jobs = list(self._jobs(state, plan))
            written, unchanged, tables = 0, 0, False
            for chunk in self._results(state, notes, jobs):
                self._record(chunk)
                written += sum(done.num_written for done in chunk)
                tables = tables or any(done.row for done in chunk)
                unchanged += sum(done.num_unchanged for done in chunk)
            return SyncReport(len(jobs), written + 2 * tables, unchanged)

    def shared(self, state: CampaignState) -> SyncReport:
        """Write what is told of the campaign as a whole; `experiments` must have brought it to this state."""
        writer, points = FileWriter(self._paths.root), self._tables.points()
        gpus = {worker_id: gpu_id for worker_id, (_, gpu_id) in self._workers.items()}
        documents = {
            "tools/registry.json": json_text(tool_registry(state)),
            "research_brief.json": json_text(research_brief(state)),
            "search_model.md": search_model(state),
            "fleet/manifest.json": json_text(fleet_manifest(state, gpus)),
        }
        for path, content in (documents | fleet_files(state, gpus)).items():
            writer.text(path, content)
        data = picture_data(state, points)
        if data.kept and picture_is_current(self._paths.progress_picture, data):
            writer.num_unchanged += 1
        elif data.kept:
            writer.data(self._paths.progress_picture.name, draw_progress(data))
        return SyncReport(len(points), writer.num_written, writer.num_unchanged)

    # What is to be done ----------------------------------------------------------------------

    def _look_at_all(self, state: CampaignState, notes: dict[str, _Notes]) -> _Plan:
        """Compare every experiment with what is known to have been written, without decoding any."""
        plan, names = _Plan(), list(state.experiments)
        present = set(os.listdir(self._paths.plans)) if self._paths.plans.is_dir() else set()
        unsafe_ns = self._unsafe_since_ns()
        del self._marks[len(names) * _MARK.size :]

        def look(part: int) -> list[tuple[int, bool]]:
            return self._compare(
                state, notes, names[bounds[part] : bounds[part + 1]], bounds[part], present, unsafe_ns
            )

        num_parts = self._processes if len(names) >= _MIN_PARALLEL_LOOK and _may_fork() else 1
        bounds = [part * len(names) // num_parts for part in range(num_parts + 1)]
        found = chain.from_iterable(_in_forks(look, num_parts, num_parts))
        for index, (name, (mark, is_right)) in enumerate(zip(names, found, strict=True)):
            plan.marks[name] = mark
            if not is_right:
                plan.files[name] = (index, mark)
        return plan

    def _compare(
        self,
        state: CampaignState,
        notes: dict[str, _Notes],
        names: list[str],
        first: int,
        present: set[str],
        unsafe_ns: int,
    ) -> list[tuple[int, bool]]:
        """The mark of each experiment, and whether its files are as they should be; `first` is the number of
        the first one, `present` the names in `plans/`."""
        folder = f"{self._paths.runs}{os.sep}"
        known = _MARK.iter_unpack(memoryview(self._marks)[first * _MARK.size :])
        found = []
        for name in names:
            mark = _mark(state, name, notes.get(name))
            known_mark, known_ns = next(known, (0, 0))
            is_right = (
                0 != mark == known_mark
                and known_ns < unsafe_ns
                and known_ns == _changed_ns(folder + name)
                and f"{name}.json" in present
                and f"{name}.md" in present
            )
            found.append((mark, is_right))
        return found

    def _look_at(self, state: CampaignState, notes: dict[str, _Notes], touched: Iterable[str]) -> _Plan:
        """The same for a few; no step over all of them."""
        plan = _Plan(first=len(self._tables))
        decided = set()
        for name in touched:
            entry = state.experiments[name]
            mark = plan.marks[name] = _mark(state, name, notes.get(name))
            plan.files[name] = (entry.experiment.ordinal - 1, mark)
            if entry.verdict is not None:
                decided.add(name)
        position = len(state.decision_order)
        while decided and position:
            position -= 1
            decided.discard(state.decision_order[position])
            plan.first = min(plan.first, position)
        return plan

    def _jobs(self, state: CampaignState, plan: _Plan) -> Iterator[_Job]:
        """First what goes into the tables, in their order, then the rest."""
        left = dict(plan.files)
        best = float(best_after(self._tables.points(plan.first - 1))[0]) if plan.first else 0.0
        kept = set(state.lineage)
        points = self._tables.points(plan.first)
        num_right, best = _num_right(points, self._marks_wanted(state, plan, points), best)
        known_lines = iter(points[num_right:].tolist())
        first = plan.first + num_right
        for position, name in enumerate(islice(state.decision_order, first, None), start=first):
            known_mark, known_best, known_mean, *_ = next(known_lines, (0, nan, nan))
            mark = plan.marks.get(name, known_mark)
            if not (0 != mark == known_mark and best == known_best):
                has_files = left.pop(name, None) is not None
                index = plan.files[name][0] if has_files else 0
                yield _Job(name, index, mark, has_files, position, best)
            if name in kept:
                mean = known_mean if 0 != mark == known_mark else state.experiments[name].mean_bpb
                best = min(best or mean, mean) if mean else best
        yield from (_Job(name, index, mark, True) for name, (index, mark) in left.items())

    @staticmethod
    def _marks_wanted(state: CampaignState, plan: _Plan, points: Points) -> npt.NDArray[np.uint64]:
        """The mark that each known line should have: that of an experiment nobody looked at is right."""
        names = islice(state.decision_order, plan.first, plan.first + len(points))
        known = points["mark"].tolist()
        return np.array(list(map(plan.marks.get, names, known)), np.uint64)

    def _results(
        self, state: CampaignState, notes: dict[str, _Notes], jobs: list[_Job]
    ) -> Iterator[list[_Done]]:
        """The jobs carried out, a chunk after the other, by this process or by forks of it."""
        chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
        processes = self._processes if len(jobs) >= _MIN_PARALLEL and _may_fork() else 1
        root = self._paths.root
        return _in_forks(
            lambda number: _carry_out(root, state, notes, chunks[number]), len(chunks), processes
        )

    # What was done ---------------------------------------------------------------------------

    def _record(self, chunk: list[_Done]) -> None:
        """Tables and marks, once the files are there."""
        self._tables.put({d.job.position: d.row for d in chunk if d.row and d.job.position is not None})
        with open(self._hidden / "experiments", "r+b", buffering=0) as file:
            for done in chunk:
                if done.job.has_files:
                    record, start = _MARK.pack(done.job.mark, done.mtime_ns), done.job.number * _MARK.size
                    self._marks.extend(bytes(max(0, start + _MARK.size - len(self._marks))))
                    self._marks[start : start + _MARK.size] = record
                    os.pwrite(file.fileno(), record, start)
        seen = [worker for done in chunk for worker in done.workers]
        earliest = dict(self._workers)
        for worker_id, finished_at, gpu_id in seen:
            known = earliest.get(worker_id, (finished_at, gpu_id))
            earliest[worker_id] = min(known, (finished_at, gpu_id))
        if earliest != self._workers:
            self._workers = dict(sorted(earliest.items()))
            FileWriter(self._hidden).text("workers.json", json_text(self._workers))

    # The hidden folder -----------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Nobody else syncs this folder meanwhile; gives whether it is as this object left it."""
        self._hidden.mkdir(parents=True, exist_ok=True)
        with open(self._hidden / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_as_left = self._left_at is not None and self._left_at == self._stamp()
            self._left_at = None
            yield is_as_left
            self._left_at = self._stamp()

    def _stamp(self) -> object:
        """Changes whenever somebody writes marks or rows, or the tables themselves."""
        marks, rows = self._hidden / "experiments", self._hidden / "rows"
        watched = (marks, rows, self._paths.experiments, self._paths.results)
        try:
            return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in map(os.stat, watched)]
        except FileNotFoundError:
            return None

    def _load(self, force: bool) -> None:
        """What earlier syncs left; anything odd about it only means that more is looked at."""
        marks = self._hidden / "experiments"
        marks.touch()
        self._workers = {} if force else _read_workers(self._hidden / "workers.json")
        if not self._workers:
            marks.write_bytes(b"")
        self._marks = bytearray(marks.read_bytes())
        del self._marks[len(self._marks) // _MARK.size * _MARK.size :]
        self._tables.load(trusted=not force)

    def _unsafe_since_ns(self) -> int:
        """Directories changed from then on may hold files that a machine's end left empty; mostly never."""
        boot, now = self._hidden / "boot", _boot_id()
        if boot.is_file() and boot.read_text() == now:
            return 2**63
        boot.write_text(now)
        return (self._hidden / "experiments").stat().st_mtime_ns - _UNSAFE_S * 10**9


_inherited: Callable[[int], Any] | None = None
"""What forked processes are to do: they have the state because they are copies of this process."""


def _in_forks(work: Callable[[int], _Result], count: int, processes: int) -> Iterator[_Result]:
    """What `work` gives for each number below `count`, in order; one process is this one."""
    if processes < 2:
        yield from map(work, range(count))
        return
    global _inherited
    _inherited = work
    try:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            yield from pool.imap(_work_inherited, range(count))
    finally:
        _inherited = None


def _work_inherited(number: int) -> Any:
    if _inherited is None:
        raise RuntimeError("this process was not forked by a sync")
    return _inherited(number)


def _may_fork() -> bool:
    """A process with threads of its own, or Ray's, must not be forked: a lock that one has would stay locked.

    Those that numpy starts when it is imported only wait, and are prepared for a fork.
    """
    has_threads = threading.active_count() > 1 or "ray" in sys.modules
    return not has_threads and not multiprocessing.current_process().daemon


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_workers(path: Path) -> dict[str, tuple[str, str]]:
    try:
        document = json.loads(path.read_text())
        return {str(worker_id): (str(at), str(gpu_id)) for worker_id, (at, gpu_id) in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
