"""Campaigns that never ran: journals of any size that look like real ones, for tests and timings.

`campaign_entries` yields the hash-chained entries, `write_campaign` lays them on disk, `campaign_state`
replays them. The same arguments give the same bytes: times are simulated, random numbers seeded. Verdicts
are drawn, not decided by `autohyp.policies`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path

from autohyp.config import CampaignConfig
from autohyp.journal import events as ev
from autohyp.journal.state import CampaignState, replay
from autohyp.paths import CampaignPaths
from autohyp.records import (
    BASELINE_KIND,
    Experiment,
    Hardware,
    Hypothesis,
    RunResult,
    Tool,
    ToolStatus,
    Verdict,
)
from autohyp.testing.campaign_records import (
    CampaignShape,
    Simulation,
    draw_fate,
    draw_num_runs,
    draw_true_bpb,
    keep_finding,
    make_decision,
    make_experiment,
    make_hypothesis,
    make_result,
    make_run,
    noise_finding,
)

__all__ = ["CampaignShape", "campaign_entries", "campaign_state", "write_campaign"]


def campaign_entries(shape: CampaignShape | None = None) -> Iterator[ev.Entry]:
    """The campaign's journal entries, in order."""
    previous = ev.GENESIS
    for seq, (stamp, draft) in enumerate(_drafts(shape or CampaignShape()), start=1):
        _, previous = ev.encode_line(seq, stamp, draft, previous)
        yield ev.Entry(seq, stamp, draft.key, draft.event, previous)


def campaign_state(shape: CampaignShape | None = None) -> CampaignState:
    """The campaign's state; without hashing, so quick."""
    drafts = _drafts(shape or CampaignShape())
    return replay(
        ev.Entry(seq, ts, draft.key, draft.event, "") for seq, (ts, draft) in enumerate(drafts, start=1)
    )


def write_campaign(research: Path, shape: CampaignShape | None = None) -> CampaignPaths:
    """Write `research/<tag>/journal.jsonl` and return the campaign's paths."""
    shape = shape or CampaignShape()
    paths = CampaignPaths(research / shape.tag)
    paths.root.mkdir(parents=True, exist_ok=True)
    previous = ev.GENESIS
    with paths.journal.open("wb") as file:
        for seq, (stamp, draft) in enumerate(_drafts(shape), start=1):
            line, previous = ev.encode_line(seq, stamp, draft, previous)
            file.write(line)
    return paths


def _drafts(shape: CampaignShape) -> Iterator[tuple[str, ev.Draft]]:
    """(time, draft) of everything that happens."""
    simulation = Simulation(shape, random.Random(shape.seed))
    for number, event in enumerate(_events(simulation), start=1):
        simulation.now += timedelta(milliseconds=simulation.random.randint(1, 90))
        yield simulation.stamp, ev.Draft(f"{event.type}-{number}", event)


def _events(sim: Simulation) -> Iterator[ev.Event]:
    yield from _opening(sim)
    yield from _experiment(sim, make_hypothesis(sim, baseline=True))
    yield ev.FindingRecorded(finding=noise_finding())
    while sim.ordinal < sim.shape.num_experiments:
        yield from _experiment(sim, make_hypothesis(sim))
        if sim.ordinal % sim.shape.experiments_per_tool == 0:
            yield from _tool(sim)
    for _ in range(sim.shape.num_running):
        yield from _running(sim)
    for number in range(sim.shape.num_queued):
        yield ev.HypothesisProposed(hypothesis=make_hypothesis(sim, number=sim.ordinal + 1 + number))
    if sim.shape.is_ended:
        yield ev.CampaignEnded(reason=f"{sim.ordinal} experiments are decided, as the limit says")
        yield ev.SessionEnded(session_id="session-1", reason="the campaign ended")


def _opening(sim: Simulation) -> Iterator[ev.Event]:
    shape = sim.shape
    hardware = Hardware(cpus=shape.workers, memory_gb=16.0, cpu_name="Simulated CPU")
    config = CampaignConfig.model_validate(
        {
            "tag": shape.tag,
            "profile": "cpu",
            "workers": {"count": shape.workers},
            "run": {"budget_s": shape.budget_s},
        }
    ).resolved(hardware)
    yield ev.CampaignCreated(
        tag=shape.tag,
        objective=config.objective,
        config=config.model_dump(mode="json"),
        target_sha256={
            name: hashlib.sha256(name.encode()).hexdigest() for name in ("train.py", "prepare.py")
        },
        data_sha256=hashlib.sha256(b"data").hexdigest(),
        created_at=sim.stamp,
    )
    yield ev.SessionStarted(
        session_id="session-1",
        host="simulated",
        hardware=hardware,
        sandbox=shape.sandbox,
        versions={"autohyp": "0.1.0", "python": "3.11"},
    )


def _experiment(sim: Simulation, hypothesis: Hypothesis) -> Iterator[ev.Event]:
    """A hypothesis from its proposal to its terminal decision."""
    if hypothesis.kind != BASELINE_KIND and sim.random.random() < 0.03:
        yield ev.HypothesisProposed(hypothesis=hypothesis)
        yield ev.HypothesisRefused(hypothesis_id=hypothesis.hypothesis_id, reason="it changes nothing")
        hypothesis = hypothesis.model_copy(update={"hypothesis_id": hypothesis.hypothesis_id + "b"})
    yield ev.HypothesisProposed(hypothesis=hypothesis)
    experiment = make_experiment(sim, hypothesis)
    yield ev.ExperimentCreated(experiment=experiment)
    fate = draw_fate(sim, experiment)
    true_bpb = draw_true_bpb(sim, fate)
    scores: list[float] = []
    num_runs = draw_num_runs(sim, experiment, fate)
    for index in range(num_runs):
        result = yield from _run(sim, experiment, 42 + index, fate, true_bpb)
        if result.val_bpb is not None:
            scores.append(result.val_bpb)
        more = index + 1 < num_runs
        decision = make_decision(sim, experiment, result, scores, Verdict.REPLICATE if more else fate)
        yield ev.DecisionMade(decision=decision)
    if fate is Verdict.KEEP:
        if len(scores) == 1:
            yield ev.RunsRequested(
                experiment_id=experiment.experiment_id, seeds=(43,), reason="a new champion"
            )
            result = yield from _run(sim, experiment, 43, fate, true_bpb)
            scores += [] if result.val_bpb is None else [result.val_bpb]
        sim.champion, sim.champion_bpb, sim.champion_runs = experiment, sum(scores) / len(scores), len(scores)
        if not experiment.is_baseline:
            yield ev.FindingRecorded(finding=keep_finding(experiment, decision))


def _run(
    sim: Simulation, experiment: Experiment, seed: int, fate: Verdict, true_bpb: float
) -> Generator[ev.Event, None, RunResult]:
    """One run, lost once before it succeeds now and then; returns its result."""
    attempt = 1
    while True:
        run = make_run(sim, experiment, seed, attempt)
        yield ev.RunStarted(run=run)
        if attempt > 1 or sim.random.random() >= sim.shape.lost_rate:
            break
        sim.now += timedelta(seconds=7)
        yield ev.RunLost(run_id=run.run_id, reason="its worker died")
        attempt += 1
    result = make_result(sim, run, fate, true_bpb)
    yield ev.RunFinished(result=result)
    return result


def _tool(sim: Simulation) -> Iterator[ev.Event]:
    """A tool is asked for and, the next moment, published."""
    tool = Tool(
        tool_id=f"tool-{sim.ordinal:04d}",
        title="Rank constants by what they gained",
        status=ToolStatus.REQUESTED,
        problem="many constants, few runs",
        requested_at=sim.stamp,
    )
    yield ev.ToolChanged(tool=tool)
    published = {
        "status": ToolStatus.PUBLISHED,
        "path": f"published/{tool.tool_id}.py",
        "summary": "a table of gains per constant",
        "usage": f"python {tool.tool_id}.py",
        "worth": {"rank_correlation": 0.41},
        "decided_at": sim.stamp,
        "decided_by": "tool-builder",
    }
    yield ev.ToolChanged(tool=tool.model_copy(update=published))


def _running(sim: Simulation) -> Iterator[ev.Event]:
    """An experiment whose first run has not ended."""
    hypothesis = make_hypothesis(sim)
    yield ev.HypothesisProposed(hypothesis=hypothesis)
    experiment = make_experiment(sim, hypothesis)
    yield ev.ExperimentCreated(experiment=experiment)
    yield ev.RunStarted(run=make_run(sim, experiment, 42, 1))
