"""What was learnt of a kind of change, in sentences with numbers."""

from __future__ import annotations

import re

import pytest

from autohyp.config import CampaignConfig
from autohyp.policies.findings import finding_about, gain_over_parent
from autohyp.records import NoiseFloor, RunStatus
from autohyp.testing.fakes import ScriptedObjective, SimulatedCampaign, make_hypothesis

NOISE = NoiseFloor(sd_bpb=0.001, degrees_of_freedom=2)


@pytest.fixture(scope="module")
def campaign() -> SimulatedCampaign:
    """A kept gain of 0.1, then a change that is 0.05 worse, then one that crashes."""
    objective = ScriptedObjective(
        {("MATRIX_LR", 0.08): -0.1, ("WEIGHT_DECAY", 0.1): 0.05}, {("DEPTH", 6): RunStatus.CRASHED}
    )
    hypotheses = [
        make_hypothesis("hyp-1", {"MATRIX_LR": 0.08}),
        make_hypothesis("hyp-2", {"WEIGHT_DECAY": 0.1}),
        make_hypothesis("hyp-3", {"DEPTH": 6}).model_copy(update={"kind": "shape"}),
    ]
    limits = {"profile": "cpu", "run": {"constants": {}}, "limits": {"max_experiments": 4}}
    campaign = SimulatedCampaign(objective, hypotheses, CampaignConfig.model_validate(limits))
    campaign.play()
    return campaign


def test_a_gain_is_over_the_experiments_own_parent(campaign: SimulatedCampaign) -> None:
    state = campaign.ledger.state()
    baseline, kept, worse, crashed = state.experiments.values()
    assert gain_over_parent(state, baseline, NOISE) is None
    assert gain_over_parent(state, crashed, NOISE) is None
    assert gain_over_parent(state, kept, None) is None
    gain, error = gain_over_parent(state, kept, NOISE) or (0.0, 0.0)
    assert gain == pytest.approx(0.1, abs=0.004)
    assert error == pytest.approx(0.001 * (1 / 3 + 1 / 2) ** 0.5)
    gain, _ = gain_over_parent(state, worse, NOISE) or (0.0, 0.0)
    assert gain == pytest.approx(-0.05, abs=0.004)


def test_a_finding_counts_and_names_the_best(campaign: SimulatedCampaign) -> None:
    state = campaign.ledger.state()
    finding = finding_about(state, "learning rate")
    assert finding is not None
    assert finding.finding_id == "kind-learning-rate"
    assert re.fullmatch(r"learning rate: Try hyp-1 gained 0\.\d{4} bpb", finding.title)
    assert "2 measured, 1 kept, 0 failed" in finding.evidence
    assert "exp-0002-try-hyp-1" in finding.evidence
    assert finding.implication == "go further in this direction"
    assert finding.confidence == 0.99


def test_of_what_only_crashed_or_was_never_tried_nothing_is_said(campaign: SimulatedCampaign) -> None:
    state = campaign.ledger.state()
    assert finding_about(state, "shape") is None
    assert finding_about(state, "unheard of") is None


def test_the_campaign_recorded_its_findings(campaign: SimulatedCampaign) -> None:
    findings = campaign.ledger.state().findings
    assert list(findings) == ["kind-learning-rate"]
    assert "2 measured, 1 kept" in findings["kind-learning-rate"].evidence


def test_a_gain_over_the_parent_is_told_when_the_champion_has_moved_on() -> None:
    objective = ScriptedObjective({("MATRIX_LR", 0.08): -0.2, ("WEIGHT_DECAY", 0.1): -0.1})
    hypotheses = [
        make_hypothesis("hyp-1", {"MATRIX_LR": 0.08}),
        make_hypothesis("hyp-2", {"WEIGHT_DECAY": 0.1}).model_copy(update={"kind": "weight decay"}),
    ]
    limits = {"profile": "cpu", "run": {"constants": {}}, "limits": {"max_experiments": 3}}
    config = CampaignConfig.model_validate(limits)
    campaign = SimulatedCampaign(objective, hypotheses, config, num_workers=3)
    campaign.play()
    finding = campaign.ledger.state().findings["kind-weight-decay"]
    assert finding.title == "weight decay: Try hyp-2 helps its parent, but is no better than the champion"
    assert "1 measured, 0 kept" in finding.evidence
    assert finding.confidence > 0.9
