"""The report, the picture's data, and what researchers are told."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from autohyp.journal import CampaignState
from autohyp.paths import CampaignPaths
from autohyp.records import Verdict
from autohyp.testing.campaigns import CampaignShape, campaign_state
from autohyp.views import facts
from autohyp.views.brief import open_questions, research_brief, search_model
from autohyp.views.picture import PictureData, draw_progress, picture_data, picture_is_current
from autohyp.views.report import print_report, report_document
from autohyp.views.tables import Points, Row, read_points


def printed(state: CampaignState, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), no_color=True, highlight=False)
    print_report(CampaignPaths(Path("research/mar8")), state, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_report_adds_up(state: CampaignState) -> None:
    document = json.loads(json.dumps(report_document(state), allow_nan=False))
    assert document["gain_bpb"] == pytest.approx(
        document["baseline"]["val_bpb"] - document["champion"]["val_bpb"]
    )
    champion_runs, baseline_runs = document["champion"]["num_runs"], document["baseline"]["num_runs"]
    error = document["noise_sd_bpb"] * (1 / champion_runs + 1 / baseline_runs) ** 0.5
    assert document["gain_standard_error_bpb"] == pytest.approx(error)
    assert document["gain_in_noise"] == pytest.approx(document["gain_bpb"] / 0.0012)
    assert [entry["experiment_id"] for entry in document["lineage"]] == state.lineage
    assert len(document["rejected"]) + len(document["failed"]) + len(document["lineage"]) == 30
    assert document["worker_wall_s"] == pytest.approx(2 * document["wall_s"], abs=0.01)
    assert 0 < document["training_fraction"] < 1
    assert document["begun_runs"] >= document["finished_runs"] == state.num_results


def test_the_report_on_a_page(state: CampaignState) -> None:
    text = printed(state)
    assert max(len(line) for line in text.splitlines()) <= 80
    document = report_document(state)
    for words in (
        f"champion  {document['champion']['val_bpb']:.6f}",
        f"baseline  {document['baseline']['val_bpb']:.6f}",
        "(standard error)",
        "what was learnt",
        "tried and rejected",
        "crashed or invalid",
        "research/mar8/progress.png",
        "autohyp best --tag mar8 --source > train.py",
        "autohyp resume --tag mar8",
        "% of the worker time trained",
    ):
        assert words in text


def test_a_report_without_a_champion_and_one_without_a_gain() -> None:
    assert "No champion" in printed(CampaignState(created=campaign_state(CampaignShape(1)).created))
    text = printed(campaign_state(CampaignShape(num_experiments=3, keep_rate=0.0)))
    assert "none: no change beat the baseline" in text


def test_noise_is_the_last_decisions_else_the_baselines(state: CampaignState) -> None:
    noise = facts.noise_floor(state)
    assert noise is not None
    assert noise.sd_bpb == 0.0012
    only_baseline = campaign_state(CampaignShape(num_experiments=1))
    baseline = only_baseline.baseline
    assert baseline is not None
    scores = list(baseline.scores.values())
    mean = sum(scores) / 3
    noise = facts.noise_floor(only_baseline)
    assert noise is not None
    assert noise.sd_bpb == pytest.approx((sum((score - mean) ** 2 for score in scores) / 2) ** 0.5)
    assert noise.degrees_of_freedom == 2
    assert facts.noise_floor(CampaignState()) is None


def test_elapsed_time_leaves_out_the_time_between_sessions(state: CampaignState) -> None:
    first = state.sessions[0]
    again = dataclasses.replace(first, started_at="2026-03-09T00:00:00Z", last_ts="2026-03-09T00:10:00Z")
    state.sessions.append(again)
    alone = facts.elapsed_s(CampaignState(sessions=[first]))
    assert facts.elapsed_s(state) == pytest.approx(alone + 600)
    assert facts.elapsed_s(state, "2026-03-09T00:11:00Z") == pytest.approx(alone + 660)
    again.end_reason = "stopped"
    assert facts.elapsed_s(state, "2026-03-10T00:00:00Z") == pytest.approx(alone + 600)


def points_of(state: CampaignState) -> Points:
    """What the tables would know of each decided experiment."""
    none = float("nan")
    means = ((entry, entry.mean_bpb) for entry in state.decided())
    rows = [
        Row(0, 0.0, none if mean is None else mean, none, entry.verdict, b"", b"") for entry, mean in means
    ]
    return read_points(b"".join(row.record() for row in rows))


def test_the_picture_shows_every_decided_experiment(state: CampaignState) -> None:
    data = picture_data(state, points_of(state))
    assert len(data.kept) + len(data.discarded) + len(data.failed) == data.num_decided == 30
    assert [x for x, _, _ in data.kept] == [x for x, _ in facts.running_best(state)]
    failed = [e for e in state.decided() if e.verdict in (Verdict.CRASH, Verdict.INVALID)]
    assert len(data.failed) == len(failed)


def test_a_picture_of_anything_can_be_drawn(tmp_path: Path) -> None:
    """Baseline alone, titles that are markup for the drawing library, many neighbours, all failed."""
    titles = [(x, 1.8 - x / 1e4, f"$x_{x}$ \\frac % {'long ' * 20}") for x in range(2, 30)]
    for data in (
        PictureData("c", [(1, 1.8, "Baseline")], [], [], 1, None),
        PictureData("$c_1$", [(1, 1.8, "Baseline"), *titles], [(40, 9.0)], [41], 41, 0.001),
        PictureData("c", [(1, 1.8, "Baseline")], [], list(range(2, 30)), 29, 0.0),
    ):
        picture = draw_progress(data)
        assert picture.startswith(b"\x89PNG")
        (tmp_path / "p.png").write_bytes(picture)
        assert picture_is_current(tmp_path / "p.png", data)
        assert not picture_is_current(tmp_path / "p.png", dataclasses.replace(data, num_decided=99))
    assert not picture_is_current(tmp_path / "missing.png", data)


def test_open_questions_name_what_is_being_found_out(state: CampaignState) -> None:
    entry = state.experiments[next(iter(state.in_flight.values())).experiment_id]
    decided = next(e for e in state.decided() if e.verdict is Verdict.DISCARD)
    assert decided.decision is not None
    entry.decisions.append(decided.decision.model_copy(update={"verdict": Verdict.REPLICATE}))
    questions = open_questions(state)
    assert any(entry.experiment.hypothesis.title in question for question in questions)
    assert any("differ on this machine" in question for question in open_questions(CampaignState()))


def test_the_brief_shows_the_best_configuration(state: CampaignState) -> None:
    brief = research_brief(state)
    champion = state.champion
    assert champion is not None
    assert brief["current_config"]["total_batch_size"] == champion.experiment.constants["TOTAL_BATCH_SIZE"]
    assert brief["best_result"]["val_bpb"] == champion.mean_bpb
    pending = [item["priority"] for item in brief["hypothesis_queue"] if item["status"] == "pending"]
    assert pending == sorted(pending, reverse=True)


def test_the_search_model_counts_by_kind(state: CampaignState) -> None:
    lines = [line.split("|")[1:-1] for line in search_model(state).splitlines() if line.startswith("| ")]
    head = ["kind", "measured", "kept", "failed", "best gain", "mean gain"]
    assert [name.strip() for name in lines[0]] == head
    changes = [entry for entry in state.decided() if not entry.experiment.is_baseline]
    assert sum(int(line[1]) for line in lines[1:]) == sum(bool(entry.scores) for entry in changes)
    assert sum(int(line[2]) for line in lines[1:]) == len(state.lineage) - 1
    best = [float(line[4]) for line in lines[1:] if "-" not in line[4].split()]
    assert best == sorted(best, reverse=True)
    assert f"{max(tally.best_gain_bpb for tally in state.kinds.values()):+.6f}" == lines[1][4].strip()
    assert "Nothing was tried yet." in search_model(CampaignState())
