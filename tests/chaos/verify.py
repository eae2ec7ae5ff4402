"""What must hold of a campaign that was under fire and has finished; every sentence returned is a
violation.

Acknowledged results are in the journal, once; the limit was reached exactly; journal, repository and folder
agree; and nothing works, is mounted or is checked out any more.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from autohyp.journal import CampaignState, Entry, read_journal, replay
from autohyp.journal.events import RunFinished, RunLost, RunStarted
from autohyp.paths import CampaignPaths
from autohyp.views.sync import sync_all

from .campaign import Campaign
from .watch import JournalWatch, acknowledged_keys

__all__ = ["verify_campaign", "verify_journal", "verify_nothing_left"]


def verify_campaign(campaign: Campaign, watch: JournalWatch) -> Iterator[str]:
    """All that its files can tell."""
    yield from (problems := watch.check_kept())
    if problems:
        return
    entries = read_journal(campaign.paths.journal)
    state = replay(entries)
    yield from _end(state, campaign.num_experiments)
    acknowledged = acknowledged_keys(campaign.acknowledgements)
    if not any(key.startswith("finish:") for key in acknowledged):
        yield "nobody witnessed the acknowledgement of a result: the harness is broken"
    yield from verify_journal(entries, acknowledged)
    yield from _repository(campaign.paths, state)
    yield from _checkouts(campaign.paths)
    yield from _in_sync(campaign.paths, state)


def verify_journal(entries: Sequence[Entry], acknowledged: Counter[str]) -> list[str]:
    """Whether all that was acknowledged is there, and all that is there counts once."""
    return [*_acknowledged(entries, acknowledged), *_counted_once(entries)]


def _end(state: CampaignState, num_experiments: int) -> Iterator[str]:
    wanted = f"the limit of {num_experiments} experiments is reached"
    if state.ended != wanted:
        yield f"it ended with {state.ended!r}, not with {wanted!r}"
    if not len(state.experiments) == len(state.decision_order) == num_experiments:
        yield (
            f"{len(state.experiments)} experiments and {len(state.decision_order)} decided, "
            f"with a limit of {num_experiments}"
        )
    if state.in_flight:
        yield f"still in flight: {', '.join(state.in_flight)}"


def _acknowledged(entries: Iterable[Entry], acknowledged: Counter[str]) -> Iterator[str]:
    recorded = Counter(entry.key for entry in entries)
    yield from (f"{key} was acknowledged and is not in the journal" for key in acknowledged.keys() - recorded)
    yield from (f"{key} is in the journal {count} times" for key, count in recorded.items() if count > 1)


def _counted_once(entries: Iterable[Entry]) -> Iterator[str]:
    begun: Counter[str] = Counter()
    seeds: Counter[tuple[str, int]] = Counter()
    ended: Counter[str] = Counter()
    for entry in entries:
        match entry.event:
            case RunStarted(run=run):
                begun[run.run_id] += 1
            case RunFinished(result=result):
                ended[result.run_id] += 1
                seeds[result.experiment_id, result.seed] += 1
            case RunLost(run_id=run_id):
                ended[run_id] += 1
    yield from (f"run {run_id} began {count} times" for run_id, count in begun.items() if count != 1)
    yield from (f"run {run_id} ended {ended[run_id]} times" for run_id in begun | ended if ended[run_id] != 1)
    yield from (f"seed {seed} of {name} counts {n} times" for (name, seed), n in seeds.items() if n != 1)


def _repository(paths: CampaignPaths, state: CampaignState) -> Iterator[str]:
    checked = _git(paths, "fsck", "--full", "--strict", "--no-dangling")
    if checked.returncode:
        yield f"git fsck: {checked.stderr.strip()[:300]}"
    refs = _git(paths, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").stdout
    found = dict(line.split() for line in refs.splitlines())
    wanted = {f"experiments/{name}": entry.experiment.commit for name, entry in state.experiments.items()}
    if state.champion is not None:
        wanted["champion"] = state.champion.experiment.commit
    yield from (
        f"branch {name} is not where the journal says" for name in wanted if found.get(name) != wanted[name]
    )
    yield from (f"branch {name} belongs to no experiment" for name in found.keys() - wanted)
    yield from (f"left behind: {path}" for path in paths.repository.rglob("*.lock"))


def _checkouts(paths: CampaignPaths) -> Iterator[str]:
    listed = _git(paths, "worktree", "list").stdout.splitlines()[1:]
    yield from (f"stale worktree: {line}" for line in listed)
    for folder in (paths.worktrees, paths.live_workers):
        yield from (f"left behind: {path}" for path in folder.glob("*"))
    yield from (f"left behind: {path}" for path in paths.root.rglob(".*.[0-9]*") if path.is_file())
    yield from (f"left behind: {path}" for path in paths.root.parent.glob(".*"))
    if paths.driver.exists():
        yield f"left behind: {paths.driver}"


def _in_sync(paths: CampaignPaths, state: CampaignState) -> Iterator[str]:
    """Written anew elsewhere from the journal alone, every view must be the same, byte for byte."""
    with tempfile.TemporaryDirectory() as folder:
        copy = CampaignPaths(Path(folder) / paths.tag)
        copy.root.mkdir()
        for path in paths.root.glob("journal*"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy.root / path.name)
        sync_all(copy, state)
        for path in sorted(copy.root.rglob("*")):
            name = path.relative_to(copy.root)
            if path.is_dir() or name.parts[0].startswith(("journal", ".")) or path.suffix == ".png":
                continue
            original = paths.root / name
            if not original.exists():
                yield f"{name} was not written"
            elif original.read_bytes() != path.read_bytes():
                yield f"{name} is not what the journal says"


def verify_nothing_left(folder: Path, left: Iterable[str]) -> Iterator[str]:
    """Processes that outlived what they belonged to, and mounts."""
    yield from (f"process left: {title}" for title in left)
    mounts = Path("/proc/mounts").read_text().splitlines()
    yield from (f"mount left: {line}" for line in mounts if str(folder) in line)


def _git(paths: CampaignPaths, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-c", "safe.directory=*", "-C", str(paths.repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
