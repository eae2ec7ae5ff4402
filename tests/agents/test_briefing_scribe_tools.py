"""What researchers see, what people read, and tools with a measured worth."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path

import pytest

from autohyp.agents import scribe as scribe_module
from autohyp.agents.briefing import CONSTRAINTS, build_brief
from autohyp.agents.scribe import PICTURE_INTERVAL_S, Scribe
from autohyp.agents.tool_builder import ToolBuilder, judge_tool, tools_to_request
from autohyp.config import CampaignConfig
from autohyp.journal import CampaignState, Draft
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.policies.decide import pooled_noise
from autohyp.records import CurvePoint, Tool, ToolStatus, Verdict
from autohyp.testing.fakes import (
    STAND_IN_SOURCE,
    InMemoryLedger,
    ScriptedObjective,
    SimulatedCampaign,
    baseline_hypothesis,
    make_experiment,
    make_hypothesis,
    make_result,
    make_run,
)


@pytest.fixture
def campaign() -> SimulatedCampaign:
    """A baseline, a gain, a loss, a no-op that is refused; then one hypothesis queued."""
    config = {"profile": "cpu", "run": {"constants": {}}, "limits": {"max_experiments": 3}}
    hypotheses = [
        make_hypothesis("gain", {"MATRIX_LR": 0.08}),
        make_hypothesis("no-op", {"DEPTH": 4}),
        make_hypothesis("loss", {"DEPTH": 6}),
        make_hypothesis("later", {"DEPTH": 8}),
    ]
    objective = ScriptedObjective({("MATRIX_LR", 0.08): -0.1, ("DEPTH", 6): 0.1})
    campaign = SimulatedCampaign(objective, hypotheses, CampaignConfig.model_validate(config))
    campaign.play()
    return campaign


# The brief -----------------------------------------------------------------------------------


def test_the_brief_tells_the_past_with_gains_over_the_own_parent(campaign: SimulatedCampaign) -> None:
    later = ev.HypothesisProposed(hypothesis=make_hypothesis("even-later"))
    campaign.ledger.append([Draft("propose:even-later", later)])
    state = campaign.ledger.state()
    noise = pooled_noise(entry.scores for entry in state.experiments.values())
    brief = build_brief(state, campaign.config, STAND_IN_SOURCE, noise, parallel=3)
    assert (brief.tag, brief.profile, brief.parallel) == ("test", "cpu", 3)
    assert brief.constraints == CONSTRAINTS
    assert brief.champion_id == "exp-0002-try-gain"
    assert brief.champion_bpb == pytest.approx(1.7, abs=0.005)
    assert brief.baseline_bpb == pytest.approx(1.8, abs=0.005)
    assert [past.verdict for past in brief.history] == [Verdict.KEEP, Verdict.KEEP, Verdict.DISCARD]
    baseline, gain, loss = brief.history
    assert baseline.gain_bpb is None
    assert gain.gain_bpb == pytest.approx(0.1, abs=0.005)
    assert loss.gain_bpb == pytest.approx(-0.1, abs=0.005)
    assert loss.parent_experiment_id == gain.experiment_id
    assert [hypothesis.title for hypothesis in brief.queued][-1] == "Try even-later"
    assert [title for title, _ in brief.refused] == ["Try no-op"]
    assert len(brief.findings) == 1


def test_before_the_baseline_is_measured_the_brief_builds_on_it(campaign: SimulatedCampaign) -> None:
    fresh = SimulatedCampaign(ScriptedObjective(), [], campaign.config)
    fresh.observer().step(0)
    brief = build_brief(fresh.ledger.state(), fresh.config, STAND_IN_SOURCE, None, 1)
    assert (brief.champion_id, brief.champion_bpb, brief.baseline_bpb) == ("exp-0001-baseline", None, None)


# The scribe ----------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of decided experiments at which a picture was drawn."""
    drawn: list[int] = []

    def draw(paths: CampaignPaths, state: CampaignState) -> None:
        drawn.append(len(state.decision_order))

    monkeypatch.setattr(scribe_module, "sync_picture", draw)
    return drawn


def content(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()
    }


def test_the_scribe_writes_what_changed_and_draws_now_and_then(
    campaign: SimulatedCampaign, tmp_path: Path, drawn: list[int]
) -> None:
    now = [0.0]
    scribe = Scribe(CampaignPaths(tmp_path), clock=lambda: now[0])
    state = campaign.ledger.state()
    scribe.write(state)
    files = content(tmp_path)
    assert {"experiments.jsonl", "results.tsv", "plans/exp-0002-try-gain.md"} <= set(files)
    assert len((tmp_path / "experiments.jsonl").read_text().splitlines()) == 3
    assert drawn == [3]
    scribe.write(state)
    assert content(tmp_path) == files
    campaign.config = campaign.config.model_copy(
        update={"limits": campaign.config.limits.model_copy(update={"max_experiments": 4})}
    )
    campaign.play()
    scribe.write(campaign.ledger.state())
    assert len((tmp_path / "experiments.jsonl").read_text().splitlines()) == 4
    assert drawn == [3], "too soon for another picture"
    now[0] += PICTURE_INTERVAL_S
    scribe.write(campaign.ledger.state())
    scribe.write(campaign.ledger.state())
    assert drawn == [3, 4]


def test_a_file_that_cannot_be_written_is_reported_and_written_later(
    campaign: SimulatedCampaign, tmp_path: Path, drawn: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    scribe = Scribe(CampaignPaths(tmp_path), clock=lambda: 0.0)
    (tmp_path / "plans").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        scribe.write(campaign.ledger.state())
    assert "cannot write the campaign's files" in caplog.text
    (tmp_path / "plans").unlink()
    scribe.write(campaign.ledger.state())
    assert (tmp_path / "plans" / "exp-0002-try-gain.md").is_file()
    assert drawn == [3]


# Tools ---------------------------------------------------------------------------------------


def ledger_with_runs(slope: float, noise_bpb: float, num_groups: int = 6) -> InMemoryLedger:
    """Groups of two equal runs: val_bpb falls with the steps by `slope`, and follows the half-way loss."""
    created = ev.CampaignCreated(
        tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026"
    )
    ledger = InMemoryLedger([Draft("campaign", created)])
    draw = random.Random(0)

    def send(event: ev.Event) -> None:
        ledger.append([Draft(f"k{ledger.num_appends}", event)])

    for ordinal in range(1, num_groups + 1):
        hypothesis = baseline_hypothesis() if ordinal == 1 else make_hypothesis(f"hyp-{ordinal}")
        send(ev.HypothesisProposed(hypothesis=hypothesis))
        experiment = make_experiment(ordinal, hypothesis, seeds=(42, 43))
        send(ev.ExperimentCreated(experiment=experiment))
        for seed in (42, 43):
            run = make_run(experiment.experiment_id, seed)
            steps = 100 + draw.randrange(-20, 20)
            val_bpb = 1.8 + 0.05 * ((ordinal * 3) % 7) - slope * (steps - 100) + draw.gauss(0, noise_bpb)
            curve = (
                CurvePoint(step=10, progress=0.1, loss=9.0),
                CurvePoint(step=40, progress=0.4, loss=2 * val_bpb + draw.gauss(0, noise_bpb)),
                CurvePoint(step=90, progress=0.9, loss=1.0),
            )
            send(ev.RunStarted(run=run))
            update = {"num_steps": steps, "curve": curve}
            send(ev.RunFinished(result=make_result(run, val_bpb).model_copy(update=update)))
    return ledger


def request_and_build(ledger: InMemoryLedger, root: Path) -> CampaignState:
    for tool in tools_to_request(ledger.state()):
        ledger.append([Draft(f"tool:{tool.tool_id}:requested", ev.ToolChanged(tool=tool))])
    ToolBuilder(ledger, CampaignPaths(root)).step()
    return ledger.state()


def test_tools_are_requested_when_there_are_runs_for_them_and_only_once() -> None:
    assert tools_to_request(ledger_with_runs(0.001, 0.0, num_groups=2).state()) == []
    assert [tool.tool_id for tool in tools_to_request(ledger_with_runs(0.001, 0.0, 3).state())] == [
        "noise-model"
    ]
    ledger = ledger_with_runs(0.001, 0.0)
    requested = tools_to_request(ledger.state())
    assert [tool.tool_id for tool in requested] == ["noise-model", "loss-forecast"]
    ledger.append([Draft("t", ev.ToolChanged(tool=requested[0]))])
    assert [tool.tool_id for tool in tools_to_request(ledger.state())] == ["loss-forecast"]


def test_the_noise_model_finds_the_slope_and_is_adopted_where_steps_explain_the_noise(tmp_path: Path) -> None:
    tool = request_and_build(ledger_with_runs(0.001, 1e-5), tmp_path).tools["noise-model"]
    assert tool.status is ToolStatus.PUBLISHED
    published = json.loads((tmp_path / tool.path).read_text())
    assert published["model"]["bpb_per_step"] == pytest.approx(-0.001, rel=0.02)
    assert published["built_from_runs"] == 12
    assert tool.worth["explained_share"] > 0.99
    assert judge_tool(tool).status is ToolStatus.ADOPTED


def test_a_noise_model_that_explains_nothing_is_discarded(tmp_path: Path) -> None:
    tool = request_and_build(ledger_with_runs(0.0, 0.01), tmp_path).tools["noise-model"]
    judged = judge_tool(tool)
    assert tool.worth["explained_share"] < 0.25
    assert (judged.status, judged.decided_by) == (ToolStatus.DISCARDED, "observer")


def test_the_loss_forecast_uses_the_quarter_before_half_way(tmp_path: Path) -> None:
    tool = request_and_build(ledger_with_runs(0.0, 1e-4), tmp_path).tools["loss-forecast"]
    model = json.loads((tmp_path / tool.path).read_text())["model"]
    assert model["slope"] == pytest.approx(0.5, rel=0.02)
    assert model["error_sd_bpb"] < 1e-3
    assert tool.worth["mean_error_bpb"] < 1e-3
    assert all(math.isfinite(value) for value in tool.worth.values())


@pytest.mark.parametrize(
    ("worth", "status"),
    [
        ({"false_stop_rate": 0.0, "stopped_share": 0.3}, ToolStatus.ADOPTED),
        ({"false_stop_rate": 0.02, "stopped_share": 0.3}, ToolStatus.DISCARDED),
        ({"false_stop_rate": 0.0, "stopped_share": 0.0}, ToolStatus.DISCARDED),
    ],
)
def test_a_forecast_must_stop_something_and_lose_nothing(worth: dict[str, float], status: ToolStatus) -> None:
    tool = Tool(tool_id="loss-forecast", title="t", status=ToolStatus.PUBLISHED, problem="p", worth=worth)
    assert judge_tool(tool).status is status


def test_a_tool_is_published_once_and_what_nobody_can_build_stays_requested(tmp_path: Path) -> None:
    ledger = ledger_with_runs(0.001, 1e-5)
    unknown = Tool(tool_id="crystal-ball", title="t", status=ToolStatus.REQUESTED, problem="p")
    ledger.append([Draft("unknown", ev.ToolChanged(tool=unknown))])
    request_and_build(ledger, tmp_path)
    version = ledger.state().version
    assert ToolBuilder(ledger, CampaignPaths(tmp_path)).step() == 0
    assert ledger.state().version == version
    assert ledger.state().tools["crystal-ball"].status is ToolStatus.REQUESTED


def test_equal_runs_without_any_spread_give_no_noise_model(tmp_path: Path) -> None:
    ledger = ledger_with_runs(0.0, 0.0)
    assert request_and_build(ledger, tmp_path).tools["noise-model"].status is ToolStatus.REQUESTED
