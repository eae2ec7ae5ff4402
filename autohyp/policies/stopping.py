"""When a campaign ends by itself, and when a session may start no further run.

Limits on experiments and runs count what is under way too, so that they are met exactly; limits on time and
money are met by starting nothing that would not end within them. What runs is always let finish. The present
session's time is the caller's, from a clock that cannot be set; that of earlier ones is the journal's. No
question looks at more than the open experiments and the sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from autohyp.config import CampaignConfig, LimitsConfig
from autohyp.journal.state import CampaignState, Session

__all__ = ["Allowance", "allowance", "campaign_hours", "expected_run_s", "has_nothing_to_do", "session_s"]

TYPICAL_OVERHEAD_S = 10.0
"""What a run takes beside its budget, until this campaign has measured it."""
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Allowance:
    """Whether a run, and whether a new experiment, may be started; `reason` says what forbids it.

    `ends_campaign` tells a limit of the campaign from one of this session, which can be resumed.
    """

    may_run: bool = True
    may_begin: bool = True
    reason: str = ""
    ends_campaign: bool = False


def session_s(session: Session) -> float:
    """Seconds that a session lasted by the journal, at least 0: until the last thing recorded in it."""
    lasted = datetime.fromisoformat(session.last_ts) - datetime.fromisoformat(session.started_at)
    return max(0.0, lasted.total_seconds())


def campaign_hours(state: CampaignState, elapsed_s: float | None) -> float:
    """Wall hours over all sessions, without the time between.

    The last one has taken `elapsed_s`; None says that it is over.
    """
    if elapsed_s is None:
        return sum(map(session_s, state.sessions)) / _HOUR_S
    return (sum(map(session_s, state.sessions[:-1])) + elapsed_s) / _HOUR_S


def expected_run_s(state: CampaignState, config: CampaignConfig) -> float:
    """What one more run will keep its worker busy: the mean so far, and never less than its budget."""
    budget_s = config.run.budget_s or 0.0
    if config.simulation is not None:
        return budget_s
    if state.num_results:
        # Runs that fail end early: their mean would promise too little.
        return max(state.worker_s / state.num_results, budget_s)
    return budget_s + TYPICAL_OVERHEAD_S


def allowance(
    state: CampaignState, limits: LimitsConfig, elapsed_s: float | None, expected_run_s: float
) -> Allowance:
    """What the limits still permit, `elapsed_s` into this session, or (None) before a new one."""
    for reason in _campaign_limits(state, limits, elapsed_s, expected_run_s / _HOUR_S):
        return Allowance(False, False, f"the limit of {reason} is reached", ends_campaign=True)
    if (
        limits.session_minutes is not None
        and (elapsed_s or 0.0) + expected_run_s > limits.session_minutes * 60
    ):
        return Allowance(False, False, f"the {limits.session_minutes:g} minutes of this session are up")
    if limits.max_experiments is not None and len(state.experiments) >= limits.max_experiments:
        reason = f"the limit of {limits.max_experiments} experiments is reached"
        return Allowance(True, False, reason, ends_campaign=True)
    return Allowance()


def _campaign_limits(
    state: CampaignState, limits: LimitsConfig, elapsed_s: float | None, run_h: float
) -> Iterator[str]:
    """The limits that one more run of `run_h` hours would break, in words."""
    running = len(state.in_flight)
    if limits.max_runs is not None and state.num_results + running + 1 > limits.max_runs:
        yield f"{limits.max_runs} runs"
    if limits.max_hours is not None and campaign_hours(state, elapsed_s) + run_h > limits.max_hours:
        yield f"{limits.max_hours:g} hours"
    worker_h = state.worker_s / _HOUR_S + (running + 1) * run_h
    if limits.max_gpu_hours is not None and worker_h > limits.max_gpu_hours:
        yield f"{limits.max_gpu_hours:g} worker hours"
    if limits.max_usd is not None and worker_h * (limits.usd_per_gpu_hour or 0.0) > limits.max_usd:
        yield f"{limits.max_usd:g} US dollars"


def has_nothing_to_do(state: CampaignState, permission: Allowance) -> bool:
    """Whether a session under this permission would end at once, without a run, a decision, or the campaign's
    end to record."""
    if permission.may_begin or state.in_flight or (permission.ends_campaign and state.ended is None):
        return False
    undecided = [entry for entry in state.open_experiments() if entry.verdict is None]
    return not any(permission.may_run or entry.awaits_decision for entry in undecided)
