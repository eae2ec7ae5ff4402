"""A simulated campaign from the command line: what it needs not, what it refuses, what every view says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autohyp.agents.campaign import campaign_facts, open_config
from autohyp.cli import run as run_module
from autohyp.config import CampaignConfig
from autohyp.errors import ConfigError
from autohyp.journal import read_journal, replay
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware
from autohyp.testing.campaigns import CampaignShape, write_campaign
from autohyp.testing.objectives import write_target

BOWL = "autohyp.testing.objectives:bowl"


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> Callable[..., Any]:
    """`begin(trainer)` runs up to where Ray would start; neither sandbox nor data may be used."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a simulation needs no sandbox and no data")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "select_sandbox", refuse)
    monkeypatch.setattr(run_module, "prepare_data", refuse)
    monkeypatch.setattr(run_module, "_session", lambda paths, config, console: 0)
    write_target(tmp_path)

    def run(trainer: str) -> Any:
        config = {"tag": "sim", "profile": "gpu", "simulation": {"trainer": trainer}}
        (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(config))
        return call("run")

    return run


def test_it_needs_no_data_no_sandbox_and_no_gpu(begin: Callable[..., Any], tmp_path: Path) -> None:
    outcome = begin(BOWL)
    assert (outcome.code, outcome.err) == (0, "")
    assert "SIMULATED" in outcome.out
    paths = CampaignPaths(tmp_path / "research" / "sim")
    state = replay(read_journal(paths.journal))
    assert state.created is not None
    assert state.created.data_sha256 == "simulated"
    assert open_config(paths).simulation is not None
    [baseline] = state.queue.values()
    assert baseline.edit is None  # the target as it is: the profile's constants are for real models


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ("missing_module:f", "missing_module cannot be imported"),
        ("autohyp.testing.objectives:missing", "has no 'missing'"),
        ("autohyp.testing.objectives:broken", "broken returned float"),
        ("no colon", "simulation.trainer"),
    ],
)
def test_a_wrong_trainer_is_one_line_before_anything_is_laid_out(
    begin: Callable[..., Any], tmp_path: Path, trainer: str, said: str
) -> None:
    outcome = begin(trainer)
    assert outcome.code == ConfigError.exit_code
    [line] = outcome.err.splitlines()
    assert said in line
    assert not (tmp_path / "research").exists()


def test_a_trainer_that_raises_is_a_crash_to_be_recorded_not_an_error(
    begin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raising_trainer.py").write_text("def train(constants, seed):\n    raise ValueError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert begin("raising_trainer:train").code == 0


@pytest.mark.parametrize("command", ["status", "report"])
def test_every_view_says_that_it_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_campaign(
        tmp_path / "research", CampaignShape(num_experiments=5, sandbox="simulated", is_ended=True)
    )
    assert "SIMULATED" in call(command).out


def test_the_sandbox_of_a_simulation_has_its_name() -> None:
    config = CampaignConfig.model_validate({"simulation": {"trainer": BOWL}})
    assert config.sandbox_name == "simulated"
    assert CampaignConfig().sandbox_name == "auto"


def test_a_real_campaign_without_data_is_refused() -> None:
    config = CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=1.0))
    with pytest.raises(ConfigError, match="names no data folder"):
        campaign_facts(config)


def test_simulated_workers_need_no_torch() -> None:
    code = "import sys, autohyp.agents.simulated, autohyp.cli.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
