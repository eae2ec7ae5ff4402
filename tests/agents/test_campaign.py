"""Beginning a campaign: a complete folder or none; going on only with the same measurement."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autohyp.agents.campaign import (
    BASELINE_HYPOTHESIS_ID,
    check_resumable,
    create_campaign,
    data_facts,
    new_tag,
    open_config,
)
from autohyp.config import CPU_CONSTANTS, CampaignConfig, load_config
from autohyp.errors import CampaignError, ConfigError, DataError
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, JournalWriter, read_journal, replay
from autohyp.paths import CampaignPaths, list_campaigns
from autohyp.records import BASELINE_KIND, ConstantsEdit, Hardware
from autohyp.testing.fakes import STAND_IN_SOURCE

TARGET = {"train.py": STAND_IN_SOURCE, "prepare.py": "SEED = 42\n"}
DATA = {"profile": "cpu", "data_sha256": "d" * 64, "sequence_len": 256}
CONFIG = CampaignConfig(profile="cpu", tag="test").resolved(Hardware(cpus=2, memory_gb=8))


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return create_campaign(tmp_path / "research" / "test", CONFIG, TARGET, DATA)


def test_a_new_campaign_has_its_journal_its_configuration_and_the_target(paths: CampaignPaths) -> None:
    state = replay(read_journal(paths.journal))
    assert state.created is not None
    assert (state.tag, state.created.data_sha256) == ("test", "d" * 64)
    assert list(state.queue) == [BASELINE_HYPOTHESIS_ID]
    baseline = state.queue[BASELINE_HYPOTHESIS_ID]
    assert baseline.kind == BASELINE_KIND
    assert baseline.edit == ConstantsEdit(overrides=CPU_CONSTANTS)
    workspace = Workspace(paths.repository)
    assert {name: workspace.read("champion", name) for name in TARGET} == TARGET
    assert open_config(paths) == CONFIG
    assert load_config(paths.config) == CONFIG.model_copy(update={"target": paths.root})
    assert sorted(path.name for path in paths.root.parent.iterdir()) == ["test"]


def test_a_baseline_without_constants_changes_nothing(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"constants": {}})})
    paths = create_campaign(tmp_path / "test", config, TARGET, DATA)
    assert replay(read_journal(paths.journal)).queue[BASELINE_HYPOTHESIS_ID].edit is None


def test_an_existing_campaign_is_not_touched(paths: CampaignPaths) -> None:
    before = {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()}
    with pytest.raises(CampaignError, match="exists already; `autohyp resume --tag test` goes on with it"):
        create_campaign(paths.root, CONFIG, TARGET, DATA)
    assert {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError()]
)
def test_a_beginning_that_fails_at_its_last_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*args: object) -> None:
        raise failure

    research = tmp_path / "research"
    expected = CampaignError if isinstance(failure, OSError) else type(failure)
    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "append", fail)
        with pytest.raises(expected):
            create_campaign(research / "test", CONFIG, TARGET, DATA)
    assert list(research.iterdir()) == []
    create_campaign(research / "test", CONFIG, TARGET, DATA)


def test_what_a_killed_beginning_left_is_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = tmp_path / f".test.{done.pid}", tmp_path / f".test.{os.getppid()}"
    others = [tmp_path / ".test.txt", tmp_path / f".tester.{done.pid}"]
    for folder in (dead, alive, *others):
        (folder / "repo.git").mkdir(parents=True)
    create_campaign(tmp_path / "test", CONFIG, TARGET, DATA)
    assert not dead.exists()
    assert all(folder.exists() for folder in (alive, *others))


def test_of_two_that_begin_at_once_one_wins_and_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "test"
    original = Workspace.create
    with monkeypatch.context() as patch:

        def meanwhile(*args: Any) -> Any:
            patch.setattr(Workspace, "create", original)
            patch.setattr("os.getpid", lambda: 123)
            create_campaign(root, CONFIG, TARGET, DATA)
            patch.undo()
            return original(*args)

        patch.setattr(Workspace, "create", meanwhile)
        with pytest.raises(CampaignError, match="cannot be made"):
            create_campaign(root, CONFIG, TARGET, DATA)
    assert open_config(CampaignPaths(root)) == CONFIG
    assert [paths.root for paths in list_campaigns(tmp_path)] == [root]


def test_a_place_where_nothing_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CampaignError, match="cannot be made: Not a directory"):
        create_campaign(tmp_path / "file" / "test", CONFIG, TARGET, DATA)


def test_a_new_tag_is_month_and_day_and_never_taken(tmp_path: Path) -> None:
    first = new_tag(tmp_path)
    assert re.fullmatch(r"[a-z]{3}\d{2}", first)
    for expected in (f"{first}-2", f"{first}-3"):
        (tmp_path / new_tag(tmp_path)).mkdir()
        assert new_tag(tmp_path) == expected
    assert CampaignConfig(tag=new_tag(tmp_path)).tag == f"{first}-3"


# Data ----------------------------------------------------------------------------------------


def test_the_facts_of_a_data_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(DATA))
    assert data_facts(tmp_path) == DATA


@pytest.mark.parametrize("text", [None, "", "{", '{"profile": "cpu"}', "[]"])
def test_what_is_no_prepared_folder_is_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"`python prepare.py` makes one|prepare the data again"):
        data_facts(tmp_path)


# Resuming ------------------------------------------------------------------------------------


def test_the_same_measurement_may_go_on(paths: CampaignPaths) -> None:
    check_resumable(replay(read_journal(paths.journal)), Workspace(paths.repository), DATA)


def test_other_data_are_refused(paths: CampaignPaths) -> None:
    other = DATA | {"data_sha256": "e" * 64}
    with pytest.raises(DataError, match="measured on other data"):
        check_resumable(replay(read_journal(paths.journal)), Workspace(paths.repository), other)


def test_another_prepare_py_is_refused(paths: CampaignPaths, tmp_path: Path) -> None:
    other, _ = Workspace.create(tmp_path / "other.git", TARGET | {"prepare.py": "SEED = 43\n"}, "m")
    with pytest.raises(ConfigError, match=r"prepare.py in its repository is not the one"):
        check_resumable(replay(read_journal(paths.journal)), other, DATA)


def test_an_empty_journal_is_nothing_to_resume(tmp_path: Path, paths: CampaignPaths) -> None:
    with pytest.raises(CampaignError, match="nothing to resume"):
        check_resumable(CampaignState(), Workspace(paths.repository), DATA)
    empty = CampaignPaths(tmp_path / "empty")
    JournalWriter(empty.journal).close()
    with pytest.raises(CampaignError, match="the journal is empty"):
        open_config(empty)


def test_a_campaign_folder_that_moved_goes_on(paths: CampaignPaths, tmp_path: Path) -> None:
    moved = CampaignPaths(paths.root.rename(tmp_path / "elsewhere"))
    check_resumable(replay(read_journal(moved.journal)), Workspace(moved.repository), DATA)
    assert open_config(moved) == CONFIG
