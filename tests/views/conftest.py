"""Campaigns for the views' tests, and a way to bend one experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autohyp.journal.state import CampaignState
from autohyp.testing.campaigns import CampaignShape, campaign_state


@pytest.fixture(scope="session")
def shape() -> CampaignShape:
    """30 decided experiments with every verdict, two running, three queued."""
    return CampaignShape(num_experiments=30, seed=5, crash_rate=0.15, invalid_rate=0.15, num_running=2)


@pytest.fixture
def state(shape: CampaignShape) -> CampaignState:
    """That campaign, fresh for each test."""
    return campaign_state(shape)


@pytest.fixture
def retitle() -> Callable[..., None]:
    """`retitle(state, experiment_id, title=..., rationale=...)` changes a hypothesis's text in place."""

    def change(state: CampaignState, experiment_id: str, **fields: Any) -> None:
        entry = state.experiments.open(experiment_id)
        hypothesis = entry.experiment.hypothesis.model_copy(update=fields)
        entry.experiment = entry.experiment.model_copy(update={"hypothesis": hypothesis})
        state.experiments.settle(experiment_id)

    return change
