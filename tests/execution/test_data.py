"""Asking the target's prepare.py for data; a script stands in for it and tells what it was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autohyp.config import CampaignConfig
from autohyp.errors import DataError
from autohyp.execution.data import prepare_data
from autohyp.records import Hardware


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "prepare.py"
    path.write_text(
        "import json, sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'asked.json')!r}).write_text(json.dumps(sys.argv[1:]))\n"
        "print('progress', file=sys.stderr)\n"
        "print(json.dumps({'data_dir': '/prepared', 'profile': 'cpu'}))\n"
    )
    return path


def ask(script: Path, data: dict[str, Any]) -> list[str]:
    config = CampaignConfig.model_validate({"profile": "cpu", "data": data})
    assert prepare_data(config.resolved(Hardware(cpus=1, memory_gb=1)), script) == Path("/prepared")
    asked: list[str] = json.loads((script.parent / "asked.json").read_text())
    return asked


def test_the_default_request_goes_to_the_default_folder(script: Path) -> None:
    assert ask(script, {}) == ["--json", "--source", "pystdlib", "--profile", "cpu"]


def test_a_folder_that_is_named_is_only_checked(script: Path) -> None:
    assert ask(script, {"directory": "/my/data"}) == ["--json", "--check", "--data", "/my/data"]


def test_every_other_request_has_a_folder_of_its_own(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOHYP_CACHE", "/cache")
    one = ask(script, {"source": "files", "paths": ["a/*.txt", "b.jsonl"], "column": "body"})
    assert one[:-1] == [
        "--json", "--source", "files", "--profile", "cpu", "--column", "body",
        "--paths", "a/*.txt", "b.jsonl", "--data",
    ]  # fmt: skip
    assert one[-1].startswith("/cache/files-cpu-")
    assert ask(script, {"source": "files", "paths": ["a/*.txt", "b.jsonl"], "column": "body"}) == one
    assert ask(script, {"source": "files", "paths": ["a/*.txt"], "column": "body"})[-1] != one[-1]
    shards = [ask(script, {"source": "climbmix", "shards": n})[-1] for n in (1, 2)]
    assert shards[0] != shards[1]


def test_what_prepare_ends_with_is_the_error(script: Path) -> None:
    script.write_text("import sys\nprint('prepare: no space left\\n\\n', file=sys.stderr)\nsys.exit(3)\n")
    with pytest.raises(DataError, match=r"^the data could not be prepared: no space left$"):
        prepare_data(CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=1)), script)


def test_a_script_that_says_nothing_is_an_error_too(script: Path) -> None:
    script.write_text("import sys\nsys.exit(1)\n")
    with pytest.raises(DataError, match="could not be prepared"):
        prepare_data(CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=1)), script)
