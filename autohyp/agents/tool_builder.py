"""The tool builder: builds what the observer asks for, back-tests it, and publishes it with its measured
worth.

A tool is a small model fitted to this campaign's own runs. Its worth is always measured on runs that were
not used to build it (leave one out), and the observer adopts or discards it on that figure alone. Built in:

- `noise-model`: how much of the spread between equal runs the number of steps explains;
- `loss-forecast`: val_bpb foretold from the training loss half-way, and how often stopping the runs that
  look hopeless then would have thrown away a gain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from autohyp.agents.base import LedgerClient
from autohyp.agents.books import Books
from autohyp.journal import CampaignState
from autohyp.journal.events import ToolChanged
from autohyp.paths import CampaignPaths, write_atomic
from autohyp.records import RunResult, Tool, ToolStatus, utc_now

__all__ = ["Recipe", "ToolBuilder", "judge_tool", "tools_to_request"]

Array = NDArray[np.float64]
MAX_FALSE_STOP_RATE = 0.01
MIN_STEP_SHARE = 0.25
HALF_WAY = 0.5


@dataclass(frozen=True)
class Recipe:
    """How a tool is made: what it is for, the runs it needs, and `build`, which returns (model, worth)."""

    title: str
    problem: str
    summary: str
    usage: str
    min_runs: int
    build: Callable[[CampaignState], tuple[dict[str, float], dict[str, float]] | None]


class ToolBuilder:
    """Builds requested tools as soon as there are runs enough for them."""

    def __init__(self, ledger: LedgerClient, paths: CampaignPaths) -> None:
        self._ledger = ledger
        self._paths = paths

    def step(self) -> int:
        """Build what is asked for and can be built; returns how many tools were published."""
        requested = [tool for tool in self._ledger.tools() if tool.status is ToolStatus.REQUESTED]
        if not requested:
            return 0
        # Only now a copy of the state: following the whole campaign would cost more than the tools.
        books = Books(self._ledger)
        return sum(self._build(tool, books) for tool in requested)

    def _build(self, tool: Tool, books: Books) -> bool:
        recipe, state = RECIPES.get(tool.tool_id), books.state
        built = recipe.build(state) if recipe is not None else None
        if recipe is None or built is None:
            return False
        model, worth = built
        path = self._paths.tools / "published" / f"{tool.tool_id}.json"
        content = {
            "tool_id": tool.tool_id,
            "model": model,
            "worth": worth,
            "built_from_runs": state.num_measured,
        }
        write_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        published = tool.model_copy(
            update={
                "status": ToolStatus.PUBLISHED,
                "path": str(path.relative_to(self._paths.root)),
                "summary": recipe.summary,
                "usage": recipe.usage,
                "worth": worth,
            }
        )
        books.record(f"tool:{tool.tool_id}:published", ToolChanged(tool=published))
        books.flush()
        return True


def tools_to_request(state: CampaignState) -> list[Tool]:
    """Tools that the campaign has data for and nobody asked for yet."""
    return [
        Tool(tool_id=tool_id, title=recipe.title, status=ToolStatus.REQUESTED, problem=recipe.problem)
        for tool_id, recipe in RECIPES.items()
        if tool_id not in state.tools and state.num_measured >= recipe.min_runs
    ]


def judge_tool(tool: Tool) -> Tool:
    """Adopt or discard a published tool on its measured worth."""
    worth = tool.worth
    if tool.tool_id == "loss-forecast":
        useful = worth["false_stop_rate"] <= MAX_FALSE_STOP_RATE and worth["stopped_share"] > 0
        notes = (
            f"would stop {worth['stopped_share']:.0%} of the runs "
            f"and lose {worth['false_stop_rate']:.1%} of the gains"
        )
    else:
        useful = worth["explained_share"] >= MIN_STEP_SHARE
        notes = (
            f"the number of steps explains {worth['explained_share']:.0%} of the spread between equal runs"
        )
    status = ToolStatus.ADOPTED if useful else ToolStatus.DISCARDED
    return tool.model_copy(
        update={"status": status, "decided_at": utc_now(), "decided_by": "observer", "notes": notes}
    )


# ---------------------------------------------------------------------------------------------
# The built-in recipes


def _leave_one_out(x: Array, y: Array) -> Array:
    """Errors of a straight line through all points but one, at that one: the closed form by leverage."""
    design = np.stack([np.ones_like(x), x], axis=1)
    hat = design @ np.linalg.pinv(design)
    residual = y - hat @ y
    return np.asarray(residual / np.maximum(1 - np.diag(hat), 1e-9))


def _build_noise_model(state: CampaignState) -> tuple[dict[str, float], dict[str, float]] | None:
    """Regress val_bpb on the number of steps, both centred within groups of equal runs."""
    steps: list[float] = []
    scores: list[float] = []
    for entry in state.experiments.values_once():
        runs = entry.measured
        if len(runs) >= 2:
            mean_steps = fmean(run.num_steps for run in runs)
            mean_score = fmean(run.val_bpb or 0.0 for run in runs)
            steps += [run.num_steps - mean_steps for run in runs]
            scores += [(run.val_bpb or 0.0) - mean_score for run in runs]
    x, y = np.array(steps), np.array(scores)
    if len(x) < 3 or not np.any(x) or not np.any(y):
        return None
    slope = float(x @ y / (x @ x))
    leverage = x * x / (x @ x)
    errors = (y - slope * x) / np.maximum(1 - leverage, 1e-9)
    explained = max(0.0, 1 - float(errors @ errors) / float(y @ y))
    return {"bpb_per_step": slope}, {"explained_share": round(explained, 4), "runs": float(len(x))}


def _half_way_loss(run: RunResult) -> float | None:
    """The mean training loss in the quarter of the budget before half-way."""
    losses = [point.loss for point in run.curve if HALF_WAY / 2 <= point.progress <= HALF_WAY]
    return float(np.mean(losses)) if losses else None


def _build_loss_forecast(state: CampaignState) -> tuple[dict[str, float], dict[str, float]] | None:
    """Fit val_bpb to the half-way loss, and replay a rule that stops runs foretold far above the champion."""
    runs = [run for entry in state.experiments.values_once() for run in entry.measured]
    pairs = [(loss, run.val_bpb) for run in runs if (loss := _half_way_loss(run)) is not None and run.val_bpb]
    if len(pairs) < 8:
        return None
    x, y = (np.array(column) for column in zip(*pairs, strict=True))
    slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    errors = _leave_one_out(x, y)
    spread = float(np.std(errors))
    best_so_far = np.minimum.accumulate(y)
    stopped = (y - errors) > np.concatenate([[np.inf], best_so_far[:-1]]) + 3 * spread
    gains = y < np.concatenate([[np.inf], best_so_far[:-1]])
    false_stops = float(np.sum(stopped & gains)) / max(1.0, float(np.sum(gains)))
    worth = {
        "mean_error_bpb": round(float(np.mean(np.abs(errors))), 6),
        "stopped_share": round(float(np.mean(stopped)), 4),
        "false_stop_rate": round(false_stops, 4),
        "runs": float(len(pairs)),
    }
    return {"slope": slope, "intercept": intercept, "error_sd_bpb": spread}, worth


RECIPES: dict[str, Recipe] = {
    "noise-model": Recipe(
        title="Noise explained by steps",
        problem="equal runs differ: how much of that is a slower or faster machine?",
        summary="A line through val_bpb against steps, within groups of equal runs.",
        usage="A difference in steps times bpb_per_step is what it would explain; never an excuse.",
        min_runs=5,
        build=_build_noise_model,
    ),
    "loss-forecast": Recipe(
        title="val_bpb foretold half-way",
        problem="hopeless runs use the whole budget: can they be told half-way?",
        summary="A line through val_bpb against the mean training loss before half-way.",
        usage="val_bpb is about intercept + slope x loss, give or take error_sd_bpb.",
        min_runs=10,
        build=_build_loss_forecast,
    ),
}
