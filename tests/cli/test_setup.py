"""`autohyp init`: the folder it lays out and the configuration that explains itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autohyp.cli import setup
from autohyp.cli.template import config_template
from autohyp.config import CampaignConfig, load_config

Call = Callable[..., Any]


def uncommented(template: str) -> str:
    """The template with every field set to the default it shows."""
    return "".join(
        line.removeprefix("# ") for line in template.splitlines(keepends=True) if re.match(r"# [ \w]", line)
    )


def test_the_template_changes_nothing_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(config_template())
    assert load_config(tmp_path / "campaign.yaml") == CampaignConfig(target=tmp_path)
    assert all(line.startswith("#") for line in config_template().splitlines() if line)


def test_the_template_shows_every_field_with_its_default() -> None:
    values = yaml.safe_load(uncommented(config_template()))
    assert CampaignConfig.model_validate(values) == CampaignConfig()
    assert values.keys() == CampaignConfig.model_fields.keys()
    for name, field in CampaignConfig.model_fields.items():
        if isinstance(values[name], dict):
            assert values[name].keys() == field.annotation.model_fields.keys()  # type: ignore[union-attr]


def test_the_template_explains_every_field() -> None:
    lines = config_template().splitlines()
    for index, line in enumerate(lines):
        if re.match(r"# +\w+:", line):
            assert lines[index - 1].startswith("##"), line
    assert "Training seconds charged to a run" in config_template()
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("exists", [False, True])
def test_init_lays_out_a_folder_that_can_run(call: Call, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "deep" / "search"
    if exists:
        folder.mkdir(parents=True)
    outcome = call("init", folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"cd {folder} && autohyp run" in outcome.out.replace("\n", "")
    for name in ("train.py", "prepare.py", "campaign.yaml", ".gitignore", "research/README.md"):
        assert (folder / name).is_file()
    assert (folder / "benchmarks").is_dir()
    compile((folder / "train.py").read_text(), "train.py", "exec")
    assert load_config(folder / "campaign.yaml").target == folder
    assert not [path.name for path in folder.parent.iterdir() if path != folder]


def test_init_refuses_a_folder_in_use(call: Call, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    outcome = call("init", tmp_path)
    assert outcome.code == 2
    assert "--force" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
    outcome = call("init", tmp_path / "train.py")
    assert outcome.code == 2
    assert "is a file" in outcome.err


def test_force_keeps_what_is_there(call: Call, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    outcome = call("init", tmp_path, "--force")
    assert outcome.code == 0
    assert "kept" in outcome.err
    assert (tmp_path / "train.py").read_text() == "mine"
    assert (tmp_path / "prepare.py").is_file()


def test_init_leaves_nothing_half_made(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Path, *arguments: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device")

    texts = {"train.py": "x", "prepare.py": "y"}
    monkeypatch.setattr(setup, "_files", lambda: texts)
    monkeypatch.setattr(Path, "write_text", no_space)
    outcome = call("init", tmp_path / "search")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert list(tmp_path.iterdir()) == []
