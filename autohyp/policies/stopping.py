"""When a campaign ends by itself, and when a session may start no further run.

Limits on experiments and runs count what is under way too, so that they are met exactly; limits on time
are met by starting nothing that would not end before them. What runs is always let finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from autohyp.config import LimitsConfig
from autohyp.journal.state import CampaignState

__all__ = ["Allowance", "allowance", "campaign_hours"]


@dataclass(frozen=True)
class Allowance:
    """Whether a run, and whether a new experiment, may be started; `reason` says what forbids it.

    `ends_campaign` tells a limit of the campaign from one of this session, which can be resumed.
    """

    may_run: bool = True
    may_begin: bool = True
    reason: str = ""
    ends_campaign: bool = False


def campaign_hours(state: CampaignState) -> float:
    """Wall hours over all sessions, each until the last thing that was recorded in it."""
    return (
        sum(
            (datetime.fromisoformat(s.last_ts) - datetime.fromisoformat(s.started_at)).total_seconds()
            for s in state.sessions
        )
        / 3600
    )


def allowance(
    state: CampaignState, limits: LimitsConfig, elapsed_s: float, expected_run_s: float
) -> Allowance:
    """What the limits still permit, `elapsed_s` into this session."""
    expected_h = expected_run_s / 3600
    checks = (
        ("runs", limits.max_runs, float(state.num_results + len(state.in_flight)), 1.0),
        ("hours", limits.max_hours, campaign_hours(state), expected_h),
        (
            "worker hours",
            limits.max_gpu_hours,
            state.worker_s / 3600 + len(state.in_flight) * expected_h,
            expected_h,
        ),
    )
    for unit, limit, used, cost in checks:
        if limit is not None and used + cost > limit:
            return Allowance(False, False, f"the limit of {limit:g} {unit} is reached", ends_campaign=True)
    if limits.session_minutes is not None and elapsed_s + expected_run_s > limits.session_minutes * 60:
        return Allowance(False, False, f"the {limits.session_minutes:g} minutes of this session are up")
    if limits.max_experiments is not None and len(state.experiments) >= limits.max_experiments:
        reason = f"the limit of {limits.max_experiments} experiments is reached"
        return Allowance(True, False, reason, ends_campaign=True)
    return Allowance()
