"""Where campaigns are, and files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autohyp.errors import CampaignError
from autohyp.paths import CampaignPaths, bundled_target, find_campaign, list_campaigns, write_atomic


def begin(research: Path, tag: str, modified_at: int) -> None:
    paths = CampaignPaths(research / tag)
    paths.root.mkdir(parents=True)
    paths.journal.write_text("")
    os.utime(paths.journal, (modified_at, modified_at))


def test_campaigns_are_listed_the_one_worked_on_last_first(tmp_path: Path) -> None:
    begin(tmp_path, "old", 100)
    begin(tmp_path, "new", 300)
    begin(tmp_path, "middle", 200)
    begin(tmp_path, ".unfinished.123", 900)
    (tmp_path / "no-journal").mkdir()
    assert [paths.tag for paths in list_campaigns(tmp_path)] == ["new", "middle", "old"]
    assert find_campaign(tmp_path, None).tag == "new"
    assert find_campaign(tmp_path, "old").root == tmp_path / "old"


def test_a_campaign_that_is_not_there_is_one_line_that_names_the_others(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="`autohyp run` starts one"):
        find_campaign(tmp_path / "nowhere", None)
    begin(tmp_path, "a", 1)
    begin(tmp_path, "b", 2)
    with pytest.raises(CampaignError, match=r"no campaign 'c' under .*; there are: b, a"):
        find_campaign(tmp_path, "c")


def test_the_layout_is_the_one_that_older_tools_know(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path / "nov23")
    relative = {
        str(path.relative_to(paths.root))
        for path in (paths.journal, paths.repository, paths.plans, paths.experiments, paths.results)
    }
    assert paths.tag == "nov23"
    assert relative == {"journal.jsonl", "repo.git", "plans", "experiments.jsonl", "results.tsv"}
    assert paths.log("exp-0001-x", "exp-0001-x.s42.a1") == paths.runs / "exp-0001-x" / "exp-0001-x.s42.a1.log"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.json"
    write_atomic(file, "old")
    write_atomic(file, "néw")
    assert file.read_text(encoding="utf-8") == "néw"
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    write_atomic(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(file, "half \ud800")
    assert file.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "folder"]


def test_the_target_comes_with_the_package() -> None:
    files = bundled_target()
    assert {"train.py", "prepare.py"} <= set(files)
    assert all(path.is_file() for path in files.values())
    assert not any("__pycache__" in name for name in files)
