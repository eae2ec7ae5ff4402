"""How a campaign stands, as one document: what `autohyp status --json` prints and the live screen draws.

`standing` says whether it runs: `running` (a driver gave a sign of life lately), `paused` or `stopping` (it
runs, but somebody asked that nothing new starts), `silent` (a driver took it up and has not laid it down, but
nothing was heard of it: it died, or the folder is a copy), `stopped` (laid down, can be resumed), `ended` (a
limit was reached), `new` (nothing happened yet).
"""

from __future__ import annotations

from typing import Any

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.records import WorkerLive
from autohyp.views import facts
from autohyp.views.text import clean_line, seconds_between
from autohyp.views.workers import STALE_AFTER_S, Present, is_fresh

__all__ = ["AT_WORK", "UNKNOWN", "experiment_summary", "standing", "status_document"]

UNKNOWN = Present()
AT_WORK = ("running", "paused", "stopping")
"""The standings in which a session goes on."""


def standing(state: CampaignState, workers: list[WorkerLive], now: str, present: Present = UNKNOWN) -> str:
    """One of running, paused, stopping, silent, stopped, ended, new."""
    if state.ended is not None:
        return "ended"
    if not state.sessions:
        return "new"
    if not facts.has_open_session(state):
        return "stopped"
    heard = _is_recent(facts.last_ts(state), now) or _is_recent(present.driver_seen_at, now)
    if not heard and not any(is_fresh(worker, now) for worker in workers):
        return "silent"
    return "stopping" if state.stop else "paused" if state.paused else "running"


def _is_recent(moment: str, now: str) -> bool:
    """Whether the two are close; a moment far in the future was told by a clock that was wrong."""
    away_s = max(seconds_between(moment, now), seconds_between(now, moment))
    return bool(moment) and away_s <= STALE_AFTER_S


def status_document(
    state: CampaignState, workers: list[WorkerLive], now: str, present: Present = UNKNOWN
) -> dict[str, Any]:
    """Everything that the screen shows, as plain data; times in seconds, losses in bits per byte."""
    champion, baseline = state.champion, state.baseline
    noise = facts.noise_floor(state)
    comparison = facts.champion_against_baseline(state)
    how = standing(state, workers, now, present)
    elapsed = facts.elapsed_s(state, now if how in AT_WORK else None)
    num_workers = facts.num_workers(state)
    return {
        "tag": state.tag,
        "objective": state.created.objective if state.created else "",
        "standing": how,
        "disk_is_full": present.disk_is_full,
        "drained_workers": {name: clean_line(reason) for name, reason in state.drained.items()},
        "end_reason": state.ended or (state.sessions[-1].end_reason if state.sessions else ""),
        "profile": facts.config_value(state, "profile"),
        "sandbox": state.sessions[-1].started.sandbox if state.sessions else "",
        "budget_s": facts.config_value(state, "run", "budget_s"),
        "limits": facts.limits(state),
        "elapsed_s": round(elapsed, 3),
        "charged_s": round(state.charged_s, 3),
        "training_fraction": round(state.charged_s / (elapsed * num_workers), 4) if elapsed else None,
        "workers_wanted": num_workers,
        "journal_version": state.version,
        "experiments": len(state.experiments),
        "undecided": [entry.experiment_id for entry in facts.undecided(state)],
        "verdicts": facts.verdict_counts(state),
        "finished_runs": state.num_results,
        "runs_in_flight": list(state.in_flight),
        "queued": [clean_line(h.title) for h in sorted(state.queue.values(), key=lambda h: -h.priority)],
        "champion": experiment_summary(champion) if champion else None,
        "baseline": experiment_summary(baseline) if baseline else None,
        "gain_bpb": comparison.gain_bpb if comparison else None,
        "gain_standard_error_bpb": comparison.standard_error_bpb if comparison else None,
        "noise_sd_bpb": noise.sd_bpb if noise else None,
        "noise_degrees_of_freedom": noise.degrees_of_freedom if noise else None,
        "best_so_far": [value for _, value in facts.running_best(state)],
        "last_decisions": [experiment_summary(entry) for entry in state.decided()[-5:]],
        "workers": [worker.model_dump(mode="json") | {"fresh": is_fresh(worker, now)} for worker in workers],
    }


def experiment_summary(entry: ExperimentEntry) -> dict[str, Any]:
    """An experiment in a few fields."""
    decision = entry.decision
    return {
        "experiment_id": entry.experiment_id,
        "title": clean_line(entry.experiment.hypothesis.title),
        "kind": entry.experiment.hypothesis.kind,
        "researcher": entry.experiment.hypothesis.researcher,
        "commit": entry.experiment.commit,
        "parent_experiment_id": entry.experiment.parent_experiment_id,
        "verdict": decision.verdict.value if decision else None,
        "reason": clean_line(decision.reason) if decision else "",
        "val_bpb": entry.mean_bpb,
        "num_runs": len(entry.scores),
        "gain_bpb": decision.gain_bpb if decision else None,
        "gain_sd_bpb": decision.gain_sd_bpb if decision else None,
    }
