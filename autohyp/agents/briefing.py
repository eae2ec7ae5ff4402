"""The brief: the past as a researcher sees it, made from the replayed state alone."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from autohyp.config import CampaignConfig
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.policies.findings import gain_over_parent
from autohyp.records import Brief, NoiseFloor, PastExperiment

__all__ = ["CONSTRAINTS", "HISTORY_LIMIT", "Briefing", "past_experiment"]

CONSTRAINTS = (
    "only train.py may change; prepare.py, the data and the evaluation are fixed",
    "the training budget of a run is fixed; more steps must come from faster steps",
    "no new dependencies",
    "peak memory is a soft limit: a gain may cost some, not all of it",
    "at equal val_bpb the shorter source wins",
)
HISTORY_LIMIT = 5_000
"""Experiments in a brief beside the baseline and the champions, the latest: what 64 GPUs
try in six hours, so that a researcher's work does not grow without end."""
NOISE_CHANGE = 0.05
"""A change of the noise by this share makes all gains' errors be stated anew."""


def past_experiment(state: CampaignState, entry: ExperimentEntry, noise: NoiseFloor | None) -> PastExperiment:
    """One experiment as a researcher sees it: its gain is over its own parent."""
    gain = gain_over_parent(state, entry, noise)
    return PastExperiment(
        experiment_id=entry.experiment_id,
        hypothesis=entry.experiment.hypothesis,
        parent_experiment_id=entry.experiment.parent_experiment_id,
        constants=entry.experiment.constants,
        fingerprint=entry.experiment.fingerprint,
        verdict=entry.verdict,
        gain_bpb=gain[0] if gain else None,
        gain_sd_bpb=gain[1] if gain else None,
        mean_bpb=entry.mean_bpb,
        reason=entry.decision.reason if entry.decision else "",
    )


class Briefing:
    """Makes a campaign's briefs one after another, and keeps what it said of experiments that did not
    change."""

    def __init__(self, config: CampaignConfig) -> None:
        self._config = config
        self._past: dict[str, PastExperiment] = {}
        self._noise_sd_bpb: float | None = None

    def brief(
        self,
        state: CampaignState,
        champion_source: str,
        parallel: int,
        touched: Collection[str] | None = None,
    ) -> Brief:
        """Everything that may be known before the next proposal.

        `touched` names the experiments that changed since the brief before; None says that any may have.
        """
        self._forget(state.noise, touched)
        # Nothing else is kept: what has left the brief would only fill the memory.
        self._past = {name: self._tell(state, name) for name in _remembered(state)}
        champion, baseline = state.champion, state.baseline
        return Brief(
            tag=state.tag,
            objective=self._config.objective,
            constraints=CONSTRAINTS,
            profile=self._config.profile,
            champion_id=state.champion_id or state.baseline_id,
            champion_source=champion_source,
            champion_bpb=champion.mean_bpb if champion else None,
            baseline_bpb=baseline.mean_bpb if baseline else None,
            noise=state.noise,
            history=tuple(self._past.values()),
            queued=tuple(state.queue.values()),
            refused=tuple((refusal.hypothesis.title, refusal.reason) for refusal in state.refused.values()),
            findings=tuple(state.findings.values()),
            parallel=parallel,
        )

    def _forget(self, noise: NoiseFloor | None, touched: Collection[str] | None) -> None:
        """Drop what must be told anew, and state the errors of the rest in the noise as it is now."""
        now, before = (noise.sd_bpb if noise else None), self._noise_sd_bpb
        if touched is None or (now != before and not (now and before)):
            self._past.clear()
            self._noise_sd_bpb = now
        elif now and before and abs(now - before) > NOISE_CHANGE * before:
            # A gain's error is so many times the noise: looking up the results again would take 100 x longer.
            self._past = {name: _rescaled(past, now / before) for name, past in self._past.items()}
            self._noise_sd_bpb = now
        for name in touched or ():
            self._past.pop(name, None)

    def _tell(self, state: CampaignState, name: str) -> PastExperiment:
        told = self._past.get(name)
        return told or past_experiment(state, state.experiments[name], state.noise)


def _rescaled(past: PastExperiment, factor: float) -> PastExperiment:
    if past.gain_sd_bpb is None:
        return past
    return past.model_copy(update={"gain_sd_bpb": past.gain_sd_bpb * factor})


def _remembered(state: CampaignState) -> list[str]:
    """The baseline, the champions and the latest experiments, in the order of their creation."""
    names = list(islice(reversed(state.experiments), HISTORY_LIMIT))[::-1]
    if len(names) == len(state.experiments):
        return names
    latest = set(names)
    first = [state.baseline_id] if state.baseline_id is not None else []
    return [name for name in dict.fromkeys(first + state.lineage) if name not in latest] + names
