"""What researchers see, what people read, and tools with a measured worth."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path

import pytest

from autohyp.agents import briefing as briefing_module
from autohyp.agents.books import Books
from autohyp.agents.briefing import CONSTRAINTS, Briefing
from autohyp.agents.scribe import SHARED_INTERVAL_S, Scribe
from autohyp.agents.tool_builder import ToolBuilder, judge_tool, tools_to_request
from autohyp.config import CampaignConfig
from autohyp.journal import CampaignState, Draft
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
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
from autohyp.views.sync import FolderSync


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
    brief = Briefing(campaign.config).brief(state, STAND_IN_SOURCE, parallel=3)
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
    brief = Briefing(fresh.config).brief(fresh.ledger.state(), STAND_IN_SOURCE, 1)
    assert (brief.champion_id, brief.champion_bpb, brief.baseline_bpb) == ("exp-0001-baseline", None, None)


def test_a_brief_made_after_another_tells_the_same_as_one_made_anew(campaign: SimulatedCampaign) -> None:
    fresh = SimulatedCampaign(
        ScriptedObjective({("MATRIX_LR", 0.08): -0.1, ("DEPTH", 6): 0.1}),
        campaign.researcher.hypotheses,
        campaign.config,
    )
    observer, books = fresh.observer(), Books(fresh.ledger)
    briefing = Briefing(fresh.config)
    for _ in range(12):
        observer.step(0)
        fresh.fleet.finish_all()
        state = books.refresh()
        grown = briefing.brief(state, STAND_IN_SOURCE, 1, books.take_touched())
        anew = Briefing(fresh.config).brief(state, STAND_IN_SOURCE, 1)
        assert [past.model_copy(update={"gain_sd_bpb": None}) for past in grown.history] == [
            past.model_copy(update={"gain_sd_bpb": None}) for past in anew.history
        ]
        for told, expected in zip(grown.history, anew.history, strict=True):
            close = pytest.approx(expected.gain_sd_bpb or 0.0, rel=briefing_module.NOISE_CHANGE)
            assert (told.gain_sd_bpb or 0.0) == close
    assert len(grown.history) == 3


def test_a_long_past_is_told_from_its_champions_and_its_end(
    campaign: SimulatedCampaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(briefing_module, "HISTORY_LIMIT", 1)
    brief = Briefing(campaign.config).brief(campaign.ledger.state(), STAND_IN_SOURCE, 1)
    names = [past.experiment_id for past in brief.history]
    assert names == ["exp-0001-baseline", "exp-0002-try-gain", "exp-0003-try-loss"]
    monkeypatch.setattr(briefing_module, "HISTORY_LIMIT", 0)
    brief = Briefing(campaign.config).brief(campaign.ledger.state(), STAND_IN_SOURCE, 1)
    assert [past.experiment_id for past in brief.history] == names[:2]


# The scribe ----------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of decided experiments at which what tells of the whole campaign was written."""
    told: list[int] = []

    def shared(folder: FolderSync, state: CampaignState) -> None:
        told.append(len(state.decision_order))

    monkeypatch.setattr(FolderSync, "shared", shared)
    return told


def content(root: Path) -> dict[str, int]:
    files = (path for path in root.rglob("*") if path.is_file() and ".sync" not in path.parts)
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


def test_the_scribe_writes_what_changed_and_draws_now_and_then(
    campaign: SimulatedCampaign, tmp_path: Path, told: list[int]
) -> None:
    now = [0.0]
    scribe = Scribe(CampaignPaths(tmp_path), clock=lambda: now[0])
    state = campaign.ledger.state()
    scribe.write(state)
    files = content(tmp_path)
    assert {"experiments.jsonl", "results.tsv", "plans/exp-0002-try-gain.md"} <= set(files)
    assert len((tmp_path / "experiments.jsonl").read_text().splitlines()) == 3
    assert told == [3]
    scribe.write(state)
    assert content(tmp_path) == files
    campaign.config = campaign.config.model_copy(
        update={"limits": campaign.config.limits.model_copy(update={"max_experiments": 4})}
    )
    campaign.play()
    state = campaign.ledger.state()
    scribe.write(state, [state.decision_order[-1]])
    assert len((tmp_path / "experiments.jsonl").read_text().splitlines()) == 4
    champion_id = state.champion_id  # it was run again beside its challenger
    assert {name for name in content(tmp_path) if content(tmp_path)[name] != files.get(name)} == {
        "experiments.jsonl",
        "results.tsv",
        f"plans/{champion_id}.md",
        *(f"runs/{champion_id}/{name}" for name in ("result.json", "events.jsonl", "metadata.json")),
        *(name for name in content(tmp_path) if state.decision_order[-1] in name),
    }
    assert told == [3], "too soon to tell of the whole again"
    now[0] += SHARED_INTERVAL_S
    scribe.write(state, [])
    scribe.write(state, [])
    assert told == [3, 4]


def test_the_last_state_is_told_of_at_once(
    campaign: SimulatedCampaign, tmp_path: Path, told: list[int]
) -> None:
    scribe = Scribe(CampaignPaths(tmp_path), clock=lambda: 0.0)
    state = campaign.ledger.state()
    scribe.write(state)
    campaign.ledger.append([Draft("end", ev.CampaignEnded(reason="enough"))])
    scribe.write(campaign.ledger.state(), [])
    assert told == [3]
    scribe.write(campaign.ledger.state(), [], is_last=True)
    assert told == [3, 3]


def test_a_file_that_cannot_be_written_is_reported_and_written_later(
    campaign: SimulatedCampaign, tmp_path: Path, told: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    scribe = Scribe(CampaignPaths(tmp_path), clock=lambda: 0.0)
    (tmp_path / "plans").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        scribe.write(campaign.ledger.state())
    assert "cannot write the campaign's files" in caplog.text
    (tmp_path / "plans").unlink()
    scribe.write(campaign.ledger.state(), [])
    assert (tmp_path / "plans" / "exp-0002-try-gain.md").is_file()
    assert told == [3]


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
