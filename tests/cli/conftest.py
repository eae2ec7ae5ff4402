"""A campaign on disk, and calling the command line inside this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autohyp.cli.main import main
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("status", "--json")` runs `autohyp status --json` and returns its Outcome."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignPaths:
    """20 experiments in ./research/mar8, ended."""
    monkeypatch.chdir(tmp_path)
    shape = CampaignShape(num_experiments=20, seed=3, crash_rate=0.1, is_ended=True)
    return write_campaign(tmp_path / "research", shape)
