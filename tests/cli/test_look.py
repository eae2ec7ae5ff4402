"""The commands that look at a campaign."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autohyp.cli import look
from autohyp.cli.options import load_campaign, resolve_experiment
from autohyp.errors import CampaignError, JournalDamagedError
from autohyp.journal import CampaignState, Draft, JournalWriter
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Verdict
from autohyp.testing.campaigns import CampaignShape, write_campaign

Call = Callable[..., Any]


@pytest.fixture
def state(campaign: CampaignPaths) -> CampaignState:
    return load_campaign(campaign.root.parent, None)[1]


def test_status(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    outcome = call("status")
    assert outcome.code == 0
    assert "mar8  ended: 20 experiments are decided" in outcome.out
    document = json.loads(call("status", "--json").out)
    assert document["standing"] == "ended"
    assert document["champion"]["experiment_id"] == state.champion_id


def test_the_tag_picks_the_campaign(call: Call, campaign: CampaignPaths) -> None:
    other = write_campaign(campaign.root.parent, CampaignShape(num_experiments=2, tag="apr1"))
    os.utime(other.journal, (1, 1))
    assert json.loads(call("status", "--json").out)["tag"] == "mar8"
    assert json.loads(call("status", "--json", "--tag", "apr1").out)["tag"] == "apr1"
    outcome = call("status", "--tag", "may5")
    assert outcome.code == 4
    assert "there are: mar8, apr1" in outcome.err


def test_the_research_folder_can_come_from_the_environment(
    call: Call, campaign: CampaignPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert call("status").code == 4
    monkeypatch.setenv("AUTOHYP_RESEARCH", str(tmp_path / "research"))
    assert call("status").code == 0


def test_watching_an_ended_campaign_prints_its_lines_and_ends(call: Call, campaign: CampaignPaths) -> None:
    outcome = call("status", "--watch")
    assert outcome.code == 0
    assert "exp-0001-baseline keep: the untouched target" in outcome.out
    assert outcome.out.splitlines()[-1].endswith("session over: the campaign ended")


def test_watching_follows_what_is_appended(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_campaign(tmp_path, CampaignShape(num_experiments=2))
    session_over = Draft("over", ev.SessionEnded(session_id="session-1", reason="enough"))
    waits: list[float] = []

    def append_instead_of_sleeping(seconds: float) -> None:
        waits.append(seconds)
        with JournalWriter(paths.journal) as writer:
            writer.append([Draft("n", ev.NoteWritten(author="ann", text="hello")), session_over])

    monkeypatch.setattr(look.time, "sleep", append_instead_of_sleeping)
    outcome = call("status", "--watch", "--research", tmp_path, "--interval", 7)
    assert outcome.code == 0
    assert waits == [7.0]
    assert "session over: enough" in outcome.out
    assert "note by ann: hello" in outcome.out


@pytest.mark.parametrize("name", ["exp-0007", "7", "exp-0007-"])
def test_an_experiment_by_number_and_by_beginning(state: CampaignState, name: str) -> None:
    assert resolve_experiment(state, name).experiment.ordinal == 7


def test_an_experiment_by_role_and_by_id(state: CampaignState) -> None:
    assert resolve_experiment(state, "baseline").experiment_id == state.lineage[0]
    assert resolve_experiment(state, "champion").experiment_id == state.lineage[-1]
    for name in state.experiments:
        assert resolve_experiment(state, name).experiment_id == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exp-", "begins 20 ids"),
        ("99", "it has 1 to 20"),
        ("exp-0001-basline", "did you mean exp-0001-baseline"),
        ("basline", "did you mean exp-0001-baseline"),
        ("zzzz", "no experiment 'zzzz'"),
        ("", "no experiment ''"),
    ],
)
def test_an_unknown_experiment_is_one_helpful_line(
    call: Call, campaign: CampaignPaths, name: str, words: str
) -> None:
    outcome = call("show", name)
    assert (outcome.code, outcome.out) == (4, "")
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_campaign_without_experiments_has_no_champion() -> None:
    for name in ("champion", "baseline", "7"):
        with pytest.raises(CampaignError, match="see `autohyp status`"):
            resolve_experiment(CampaignState(), name)


def test_show(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    outcome = call("show", "champion")
    assert outcome.code == 0
    assert outcome.out.startswith("# ")
    assert "## Outcome" in outcome.out
    document = json.loads(call("show", "champion", "--json").out)
    assert document["experiment_id"] == state.champion_id
    assert document["verdict"] == "keep"
    assert document["results"][0]["val_bpb"] > 0


def test_diff_is_the_exact_patch(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    champion = state.champion
    assert champion is not None
    assert call("diff", "champion").out == champion.experiment.diff
    outcome = call("diff", "baseline")
    assert (outcome.code, outcome.out) == (0, "")
    assert "changes nothing" in outcome.err


def test_log(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    baseline = state.experiments[state.lineage[0]]
    first, last = baseline.results[0], baseline.results[-1]
    outcome = call("log", "baseline")
    assert (outcome.code, outcome.out) == (0, "step 120 loss 4.71\n")
    assert "from the journal" in outcome.err
    for result, text in ((first, "first\x1b[2J run"), (last, "last run\n")):
        path = campaign.log(baseline.experiment_id, result.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert call("log", "baseline").out == "last run\n"
    assert call("log", "baseline", "--run", first.run_id).out == "first run\n"
    assert call("log", "baseline", "--run", first.seed).out == "first run\n"
    outcome = call("log", "baseline", "--run", "1")
    assert outcome.code == 4
    assert f"{first.run_id} (seed 42)" in outcome.err


def test_best(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    champion, baseline = state.champion, state.baseline
    assert champion is not None
    assert baseline is not None
    outcome = call("best")
    assert f"{champion.mean_bpb:.6f} val_bpb" in outcome.out
    assert f"over the baseline's {baseline.mean_bpb:.6f}" in outcome.out
    document = json.loads(call("best", "--json").out)
    assert document["val_bpb"] == champion.mean_bpb
    assert document["constants"]["DEPTH"] == champion.experiment.constants["DEPTH"]


def test_best_source_comes_out_of_the_repository(
    call: Call, campaign: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = call("best", "--source")
    assert outcome.code == 4
    assert "repo.git is not there" in outcome.err
    commit = make_repository(campaign.repository, "DEPTH = 5\n")
    outcome = call("best", "--source")
    assert outcome.code == 4
    assert "git cannot show train.py" in outcome.err

    def champion_at_commit(paths: CampaignPaths, entry: Any) -> str:
        entry.experiment = entry.experiment.model_copy(update={"commit": commit})
        return read_source(paths, entry)

    read_source = look._source
    monkeypatch.setattr(look, "_source", champion_at_commit)
    assert call("best", "--source").out == "DEPTH = 5\n"


def make_repository(bare: Path, source: str) -> str:
    """A bare repository with one commit of train.py; returns the commit."""
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@example.org"}

    def git(*arguments: str, stdin: str = "") -> str:
        command = ["git", f"--git-dir={bare}", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout.strip()

    git("init", "--bare", "--quiet")
    blob = git("hash-object", "-w", "--stdin", stdin=source)
    tree = git("mktree", stdin=f"100644 blob {blob}\ttrain.py\n")
    return git("commit-tree", tree, "-m", "champion")


def test_report(call: Call, campaign: CampaignPaths) -> None:
    assert "what was learnt" in call("report").out
    assert json.loads(call("report", "--json").out)["experiments"] == 20


def test_sync_from_the_journal_alone(call: Call, campaign: CampaignPaths, state: CampaignState) -> None:
    outcome = call("sync")
    assert outcome.code == 0
    assert "20 experiments" in outcome.out
    assert len(campaign.results.read_text().splitlines()) == 21
    document = json.loads(call("sync", "--json").out)
    assert (document["experiments"], document["written"]) == (20, 0)


def test_a_damaged_journal_is_one_line_with_its_line_number(call: Call, campaign: CampaignPaths) -> None:
    lines = campaign.journal.read_bytes().splitlines(keepends=True)
    lines[10] = lines[10].replace(b"exp-0", b"exp-9", 1).replace(b"hyp-", b"hyq-", 1)
    campaign.journal.write_bytes(b"".join(lines))
    outcome = call("status")
    assert outcome.code == 4
    assert "line 11 is damaged" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_impossible_event_names_its_line(tmp_path: Path) -> None:
    paths = write_campaign(tmp_path, CampaignShape(num_experiments=1, num_queued=0))
    with JournalWriter(paths.journal) as writer:
        number = len(writer.entries) + 1
        writer.append([Draft("x", ev.RunLost(run_id="never", reason="x"))])
    with pytest.raises(JournalDamagedError, match=f"line {number} cannot follow") as caught:
        load_campaign(tmp_path, None)
    assert caught.value.line_number == number


def test_verdicts_in_the_fixture_cover_what_is_shown(state: CampaignState) -> None:
    """The tests above would prove little on a campaign where everything was discarded."""
    assert {entry.verdict for entry in state.decided()} >= {Verdict.KEEP, Verdict.DISCARD, Verdict.CRASH}
