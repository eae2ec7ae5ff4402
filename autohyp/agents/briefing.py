"""The brief: the past as a researcher sees it, made from the replayed state alone."""

from __future__ import annotations

from autohyp.config import CampaignConfig
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.policies.findings import gain_over_parent
from autohyp.records import Brief, NoiseFloor, PastExperiment

__all__ = ["CONSTRAINTS", "build_brief", "past_experiment"]

CONSTRAINTS = (
    "only train.py may change; prepare.py, the data and the evaluation are fixed",
    "the training budget of a run is fixed; more steps must come from faster steps",
    "no new dependencies",
    "peak memory is a soft limit: a gain may cost some, not all of it",
    "at equal val_bpb the shorter source wins",
)


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


def build_brief(
    state: CampaignState,
    config: CampaignConfig,
    champion_source: str,
    noise: NoiseFloor | None,
    parallel: int,
) -> Brief:
    """Everything that may be known before the next proposal."""
    champion, baseline = state.champion, state.baseline
    return Brief(
        tag=state.tag,
        objective=config.objective,
        constraints=CONSTRAINTS,
        profile=config.profile,
        champion_id=state.champion_id or (baseline.experiment_id if baseline else None),
        champion_source=champion_source,
        champion_bpb=champion.mean_bpb if champion else None,
        baseline_bpb=baseline.mean_bpb if baseline else None,
        noise=noise,
        history=tuple(past_experiment(state, entry, noise) for entry in state.experiments.values()),
        queued=tuple(state.queue.values()),
        refused=tuple((state.hypotheses[key].title, reason) for key, reason in state.refused.items()),
        findings=tuple(state.findings.values()),
        parallel=parallel,
    )
