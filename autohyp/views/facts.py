"""What the views say about a campaign, computed once from its state: noise, gains, time, standing.

Pure functions of the replayed state; where the present matters, `now` (ISO 8601) is an argument.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.records import NoiseFloor, Verdict
from autohyp.views.text import seconds_between

__all__ = [
    "LOUD_SANDBOXES",
    "Comparison",
    "champion_against_baseline",
    "config_value",
    "elapsed_s",
    "experiment_gain",
    "has_open_session",
    "last_ts",
    "limits",
    "limits_line",
    "noise_floor",
    "num_workers",
    "running_best",
    "sandbox_name",
    "sandbox_words",
    "undecided",
    "verdict_counts",
]


@dataclass(frozen=True)
class Comparison:
    """Two means of val_bpb: `gain_bpb` above zero says that the second is better."""

    gain_bpb: float
    standard_error_bpb: float | None
    noise_sd_bpb: float | None

    @property
    def gain_in_noise(self) -> float | None:
        """The gain as a multiple of the noise between two runs of one source."""
        return self.gain_bpb / self.noise_sd_bpb if self.noise_sd_bpb else None


def noise_floor(state: CampaignState) -> NoiseFloor | None:
    """The noise that the last decision used; before there is one, the spread of the baseline's runs."""
    for experiment_id in reversed(state.decision_order):
        decision = state.experiments[experiment_id].decision
        if decision is not None and decision.noise is not None:
            return decision.noise
    baseline = state.baseline
    scores = list(baseline.scores.values()) if baseline else []
    if len(scores) < 2:
        return None
    return NoiseFloor(sd_bpb=statistics.stdev(scores), degrees_of_freedom=len(scores) - 1)


def champion_against_baseline(state: CampaignState) -> Comparison | None:
    """The champion's gain over the baseline, its standard error by the noise and the numbers of runs."""
    champion, baseline = state.champion, state.baseline
    if champion is None or baseline is None or champion.mean_bpb is None or baseline.mean_bpb is None:
        return None
    if champion is baseline:
        return None
    noise = noise_floor(state)
    error = None
    if noise is not None:
        error = noise.sd_bpb * math.sqrt(1 / len(champion.scores) + 1 / len(baseline.scores))
    return Comparison(baseline.mean_bpb - champion.mean_bpb, error, noise.sd_bpb if noise else None)


def experiment_gain(entry: ExperimentEntry) -> float | None:
    """The gain over the champion of its time, as the last decision counted it."""
    return entry.decision.gain_bpb if entry.decision else None


def running_best(state: CampaignState) -> list[tuple[int, float]]:
    """(position in the order of decisions from 1, mean val_bpb) of the baseline and every keep."""
    kept = set(state.lineage)
    means = (
        (i, state.experiments[name]) for i, name in enumerate(state.decision_order, start=1) if name in kept
    )
    return [(i, entry.mean_bpb) for i, entry in means if entry.mean_bpb is not None]


def verdict_counts(state: CampaignState) -> dict[str, int]:
    """How many experiments have each terminal verdict; every verdict is named."""
    return {verdict.value: state.verdicts.get(verdict, 0) for verdict in Verdict if verdict.is_terminal}


def last_ts(state: CampaignState) -> str:
    """The time of the last event (of the creation while there is no session), empty for an empty journal."""
    if state.sessions:
        return state.sessions[-1].last_ts
    return state.created.created_at if state.created else ""


def has_open_session(state: CampaignState) -> bool:
    """Whether a driver took the campaign up and has not laid it down, alive or not."""
    return bool(state.sessions) and not state.sessions[-1].end_reason


def elapsed_s(state: CampaignState, now: str | None = None) -> float:
    """Wall seconds of all sessions, each until its last event; with `now`, an open last one until then."""
    total = sum(seconds_between(session.started_at, session.last_ts) for session in state.sessions)
    if now is not None and has_open_session(state):
        total += seconds_between(state.sessions[-1].last_ts, now)
    return total


def undecided(state: CampaignState) -> list[ExperimentEntry]:
    """Experiments without a terminal verdict, oldest first."""
    return [entry for entry in state.open_experiments() if entry.verdict is None]


def config_value(state: CampaignState, *path: str) -> object:
    """A field of the campaign's stored configuration, None where it has none."""
    value: object = state.created.config if state.created else {}
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def num_workers(state: CampaignState) -> int:
    """Workers that the configuration asks for, at least 1."""
    count = config_value(state, "workers", "count")
    return count if isinstance(count, int) and count > 0 else 1


def sandbox_name(state: CampaignState) -> str:
    """The sandbox of the last session, in capitals a person cannot miss when there was none."""
    name = state.sessions[-1].started.sandbox if state.sessions else ""
    return LOUD_SANDBOXES.get(name, name)


LOUD_SANDBOXES = {"none": "NO SANDBOX", "simulated": "SIMULATED"}
"""What a reader must not miss, by a result's `sandbox`: it was not confined, or never trained."""


def sandbox_words(name: str) -> str:
    """A sandbox as a line of text names it."""
    return LOUD_SANDBOXES.get(name) or f"sandbox {name}"


_LIMITS = {
    "max_experiments": "{} experiments",
    "max_runs": "{} runs",
    "max_hours": "{:g} h",
    "max_gpu_hours": "{:g} worker hours",
    "max_usd": "{:g} US dollars",
    "session_minutes": "{:g} min this session",
}


def limits(state: CampaignState) -> dict[str, float]:
    """The limits that are set: those of the last session, which may differ from what it began with."""
    recorded = state.sessions[-1].started.limits if state.sessions else None
    stored = config_value(state, "limits") if recorded is None else recorded
    return {k: v for k, v in stored.items() if v is not None} if isinstance(stored, dict) else {}


def limits_line(state: CampaignState) -> str:
    """The limits in words, or that there is none."""
    values = limits(state)
    words = [text.format(values[name]) for name, text in _LIMITS.items() if name in values]
    return "until " + " or ".join(words) if words else "until stopped"
