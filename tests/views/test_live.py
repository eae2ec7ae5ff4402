"""The live screen, its plain lines, the status document and the workers' heartbeats."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from autohyp.journal import CampaignState
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Progress, Verdict, WorkerLive
from autohyp.testing.campaigns import CampaignShape, campaign_entries, campaign_state
from autohyp.views import facts
from autohyp.views.live import LiveScreen, PlainFeed, plain_lines, render_live
from autohyp.views.status import standing, status_document
from autohyp.views.text import plus_seconds
from autohyp.views.workers import read_workers, worker_document, write_worker

RESULT_LINE = re.compile(r" seed \d+ (val_bpb|crashed|invalid)")


def workers_of(state: CampaignState, now: str) -> list[WorkerLive]:
    return [
        WorkerLive(
            worker_id=run.worker_id,
            state="running",
            run_id=run.run_id,
            experiment_id=run.experiment_id,
            title=state.experiments[run.experiment_id].experiment.hypothesis.title,
            progress=Progress(phase="training", step=40, progress=0.33, loss=5.125),
            updated_at=now,
        )
        for run in state.in_flight.values()
    ]


def screen_text(state: CampaignState, workers: list[WorkerLive], now: str, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True, highlight=False)
    console.print(render_live(state, workers, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# The screen ----------------------------------------------------------------------------------


def test_the_screen_says_it_all_in_80_columns_without_colour(state: CampaignState) -> None:
    now = facts.last_ts(state)
    text = screen_text(state, workers_of(state, now), now)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    champion, comparison = state.champion, facts.champion_against_baseline(state)
    assert champion is not None
    assert comparison is not None
    for words in (
        "mar8  running",
        f"{champion.mean_bpb:.6f}",
        f"{comparison.gain_bpb:+.6f} over the baseline",
        "noise ±0.001200",
        "loss 5.125",
        "training",
        "sandbox",
        "until stopped",
        "30 decided",
        "3 queued",
    ):
        assert words in text
    shown = {word for word in ("keep", "discard", "crash", "invalid") if f" {word} " in text}
    assert shown == {entry.verdict.value for entry in state.decided()[-6:] if entry.verdict}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_fits_its_width(state: CampaignState, width: int) -> None:
    now = facts.last_ts(state)
    text = screen_text(state, workers_of(state, now), now, width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_markup_and_escapes_of_experiments_are_only_text(
    state: CampaignState, retitle: Callable[..., None]
) -> None:
    retitle(state, state.decision_order[-1], title="[red]x[/red] [/nope]\x1b[2J")
    text = screen_text(state, [], facts.last_ts(state), 160)
    assert "[red]x[/red] [/nope]" in text
    assert "\x1b" not in text


def test_a_campaign_without_sandbox_says_so() -> None:
    state = campaign_state(CampaignShape(num_experiments=3, sandbox="none"))
    assert "NO SANDBOX" in screen_text(state, [], facts.last_ts(state))
    assert "NO SANDBOX" in plain_lines(None, state)[0]


def test_the_screen_before_anything_was_measured(state: CampaignState) -> None:
    opening = CampaignState(created=state.created, sessions=state.sessions[:1])
    assert "preparing" in screen_text(opening, [], facts.last_ts(state))
    baseline = campaign_state(CampaignShape(num_experiments=1)).baseline
    assert baseline is not None
    entry = copy.deepcopy(baseline)
    del entry.results[1:], entry.decisions[1:]
    opening.experiments.add(entry)
    opening.baseline_id = entry.experiment_id
    opening.open[entry.experiment_id] = None
    assert "measuring the baseline and its noise: 1 of 3 runs" in screen_text(
        opening, [], facts.last_ts(state)
    )


def test_a_large_fleet_fits_on_a_screen(state: CampaignState) -> None:
    now = facts.last_ts(state)
    workers = [WorkerLive(worker_id=f"worker-{i:03d}", updated_at=now) for i in range(200)]
    text = screen_text(state, workers, now)
    assert "184 more: 184 idle" in text
    assert len(text.splitlines()) <= 40


def test_a_silent_worker_is_shown_as_gone(state: CampaignState) -> None:
    then = facts.last_ts(state)
    text = screen_text(state, workers_of(state, then), plus_seconds(then, 120))
    assert "no sign of life" in text
    assert "silent: nothing heard of its driver" in text


# Standing ------------------------------------------------------------------------------------


def test_standing() -> None:
    running = campaign_state(CampaignShape(num_experiments=2, num_running=1))
    now = facts.last_ts(running)
    later = plus_seconds(now, 600)
    assert standing(CampaignState(), [], now) == "new"
    assert standing(running, [], now) == "running"
    assert standing(running, [], later) == "silent"
    assert standing(running, workers_of(running, later), later) == "running"
    running.sessions[-1].end_reason = "stopped by a person"
    assert standing(running, workers_of(running, later), later) == "stopped"
    assert standing(campaign_state(CampaignShape(num_experiments=2, is_ended=True)), [], now) == "ended"


def test_the_status_document_is_json_and_counts_right(state: CampaignState) -> None:
    now = plus_seconds(facts.last_ts(state), 10)
    document = json.loads(json.dumps(status_document(state, workers_of(state, now), now), allow_nan=False))
    assert document["standing"] == "running"
    assert sum(document["verdicts"].values()) == 30
    assert len(document["undecided"]) == 2
    assert len(document["queued"]) == 3
    assert document["champion"]["experiment_id"] == state.lineage[-1]
    assert document["elapsed_s"] == pytest.approx(facts.elapsed_s(state) + 10, abs=0.01)
    assert document["training_fraction"] == pytest.approx(
        document["charged_s"] / (2 * document["elapsed_s"]), abs=1e-4
    )
    assert document["workers"][0]["fresh"] is True
    assert len(document["best_so_far"]) == len(state.lineage)


# Plain lines ---------------------------------------------------------------------------------


def test_lines_tell_everything_once(state: CampaignState) -> None:
    feed = PlainFeed()
    lines = feed.lines(state)
    assert feed.lines(state) == []
    results = [result for entry in state.experiments.values() for result in entry.results]
    assert sum(bool(RESULT_LINE.search(line)) for line in lines) == len(results)
    for entry in state.experiments.values():
        told = [line for line in lines if f" {entry.experiment_id} " in line]
        decisions = [line for line in told if not re.search(r" seed \d+ ", line)]
        assert len(decisions) == len(entry.decisions)
    assert sum("learnt:" in line for line in lines) == len(state.findings)
    assert not [line for line in lines if "\n" in line]


def test_following_says_the_same_as_reading_at_the_end() -> None:
    shape = CampaignShape(num_experiments=12, seed=2, is_ended=True)
    feed, state, followed = PlainFeed(), CampaignState(), []
    for entry in campaign_entries(shape):
        state.apply(entry)
        followed += feed.lines(state)
    assert sum("starts on" in line for line in followed) == state.num_begun
    assert "session over" in followed[-1]
    assert "ended: 12 experiments are decided" in followed[-2]
    # A start is told only while the run is on its worker, a tool only as it now is; facts without a time
    # of their own carry the journal's.
    lasting = [line[9:] for line in followed if "starts on" not in line and "tool requested" not in line]
    assert sorted(lasting) == sorted(line[9:] for line in PlainFeed().lines(state))


def test_a_champion_that_runs_again_is_reported() -> None:
    state = campaign_state(CampaignShape(num_experiments=4, keep_rate=1.0, replicate_rate=0.0))
    champion = state.champion
    assert champion is not None
    assert len(champion.results) == 2
    feed = PlainFeed()
    feed.lines(state)
    extra = champion.results[-1].model_copy(update={"seed": 99, "val_bpb": 1.25})
    state.open[champion.experiment_id] = None
    state.version += 1
    assert feed.lines(state) == []
    champion.results.append(extra)
    state.version += 1
    assert [line.split(" ", 1)[1] for line in feed.lines(state)] == [
        f"{champion.experiment_id} seed 99 val_bpb 1.250000 ({extra.num_steps} steps, 30.0 s)"
    ]


def test_lines_between_two_states() -> None:
    entries = list(campaign_entries(CampaignShape(num_experiments=3, num_queued=0)))
    before, after = CampaignState(), CampaignState()
    for entry in entries[:-1]:
        before.apply(entry)
    for entry in entries:
        after.apply(entry)
    assert isinstance(entries[-1].event, ev.DecisionMade)
    (line,) = plain_lines(before, after)
    assert entries[-1].event.decision.verdict.value in line
    assert Verdict.DISCARD.value in line


def test_the_live_screen_prints_lines_where_there_is_no_terminal(
    tmp_path: Path, state: CampaignState
) -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    with LiveScreen(CampaignPaths(tmp_path), console) as screen:
        screen.update(state)
        screen.update(state)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == plain_lines(None, state)


def test_the_live_screen_draws_on_a_terminal(tmp_path: Path, state: CampaignState) -> None:
    console = Console(width=80, height=40, file=io.StringIO(), force_terminal=True, highlight=False)
    screen = LiveScreen(CampaignPaths(tmp_path), console)
    with screen:
        screen.update(state)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "30 decided" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


# Heartbeats ----------------------------------------------------------------------------------


def test_heartbeats_come_back_as_they_were(tmp_path: Path, state: CampaignState) -> None:
    paths = CampaignPaths(tmp_path)
    workers = workers_of(state, "2026-03-08T09:00:00.000Z")
    workers.append(WorkerLive(worker_id="worker-9", updated_at="2026-03-08T09:00:00.000Z"))
    for worker in workers:
        write_worker(paths, worker)
    assert read_workers(paths) == sorted(workers, key=lambda worker: worker.worker_id)
    document = worker_document(workers[0])
    assert {"worker_id", "node_id", "gpu_id", "run_id", "state", "updated_at", "pid", "commit"} <= set(
        document
    )
    assert {"hypothesis_id", "title", "notes", "metrics", "progress", "paths"} <= set(document)
    assert document["progress"]["progress_pct"] == 33.0
    assert worker_document(workers[-1])["progress"] == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"worker_id": 3}', '{"worker_id": "w", "state": "flying"}']
)
def test_a_heartbeat_that_is_none_is_passed_over(tmp_path: Path, content: str) -> None:
    paths = CampaignPaths(tmp_path)
    paths.live_workers.mkdir(parents=True)
    (paths.live_workers / "w.json").write_text(content)
    assert read_workers(paths) == []
