"""Simulated runs: how a trainer is found, what it may return, and what becomes a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest
from pydantic import ValidationError

from autohyp.errors import ConfigError
from autohyp.execution.preflight import check
from autohyp.execution.simulation import SimulatedRun, load_trainer, result_of, simulate
from autohyp.records import RunStatus
from autohyp.source import read_constants, set_constants
from autohyp.testing.fakes import make_run
from autohyp.testing.objectives import (
    BEST,
    NOISE_SD_BPB,
    bowl,
    broken,
    fragile_bowl,
    true_bpb,
    write_target,
)

CONSTANTS = {"MATRIX_LR": 0.04, "WEIGHT_DECAY": 0.2, "WARMDOWN_RATIO": 0.5}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:function", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("autohyp.testing.objectives:missing", "has no 'missing'"),
        ("autohyp.testing.objectives:BEST", "has no callable 'BEST'"),
    ],
)
def test_a_trainer_that_is_none_is_one_clear_line(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_trainer(name)
    assert str(caught.value).startswith("simulation.trainer: ")
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_to_import.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: two lines; it must be installed or on PYTHONPATH"):
        load_trainer("fails_to_import:f")


def test_a_trainer_that_returns_something_else_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match="broken returned float, not a SimulatedRun"):
        simulate(broken, CONSTANTS, 42)  # type: ignore[arg-type]


def test_an_exception_of_the_trainer_is_a_crash_with_its_reason() -> None:
    simulated = simulate(load_trainer("autohyp.testing.objectives:fragile_bowl"), {"MATRIX_LR": 9.0}, 42)
    result = result_of(simulated, make_run(), budget_s=30.0)
    assert (result.status, result.reason) == (RunStatus.CRASHED, "ValueError: the loss is not finite")
    assert (result.val_bpb, result.total_s, result.is_measured) == (None, 0.0, False)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"val_bpb": float("nan")},
        {"val_bpb": 1.0, "status": "crashed"},
        {"val_bpb": 1.0, "duration_s": -1},
        {"val_bpb": 1.0, "loss": 2.0},
    ],
)
def test_a_run_that_makes_no_sense_cannot_be_made(facts: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SimulatedRun.model_validate(facts)


def test_a_result_takes_over_the_run_and_says_that_it_is_simulated() -> None:
    run = make_run(seed=7)
    result = result_of(SimulatedRun(val_bpb=0.9, curve=((0.5, 3.0), (1.0, 2.5))), run, budget_s=30.0)
    assert (result.run_id, result.seed, result.worker_id) == (run.run_id, 7, run.worker_id)
    assert (result.sandbox, result.val_bpb, result.is_measured) == ("simulated", 0.9, True)
    assert (result.budget_s, result.charged_s, result.total_s) == (30.0, 30.0, 30.0)
    assert [(point.step, point.progress, point.loss) for point in result.curve] == [
        (1, 0.5, 3.0),
        (2, 1, 2.5),
    ]


def test_the_budget_limits_what_is_charged_not_what_it_took() -> None:
    longer = result_of(SimulatedRun(val_bpb=1.0, duration_s=40.0), make_run(), budget_s=30.0)
    assert (longer.charged_s, longer.total_s) == (30.0, 40.0)
    shorter = SimulatedRun(status=RunStatus.TIMED_OUT, reason="it hung", duration_s=2.0)
    assert result_of(shorter, make_run(), budget_s=30.0).charged_s == 2.0


def test_progress_shows_the_curve_up_to_now() -> None:
    simulated = SimulatedRun(val_bpb=0.9, curve=((0.5, 3.0), (1.0, 2.5)))
    assert [simulated.progress(share, 1.0).loss for share in (0.0, 0.49, 0.5, 0.99, 1.0)] == [
        None,
        None,
        3.0,
        3.0,
        2.5,
    ]
    assert simulated.progress(7.0, 1.0).progress == 1.0


def test_the_bowl_has_the_promised_bottom_and_noise() -> None:
    bottom = true_bpb(BEST)
    assert all(true_bpb(BEST | {name: value * 1.5}) > bottom + NOISE_SD_BPB for name, value in BEST.items())
    scores = [bowl(CONSTANTS, seed).val_bpb or 0.0 for seed in range(400)]
    assert fmean(scores) == pytest.approx(true_bpb(CONSTANTS), abs=4 * NOISE_SD_BPB / 20)
    assert stdev(scores) == pytest.approx(NOISE_SD_BPB, rel=0.15)


def test_equal_constants_and_seed_give_an_equal_run_in_another_process() -> None:
    code = "from autohyp.testing.objectives import bowl; print(bowl({'A': 1, 'MATRIX_LR': 0.05}, 3).val_bpb)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == bowl({"A": 1, "MATRIX_LR": 0.05}, 3).val_bpb


def test_the_fragile_bowl_crashes_now_and_then_but_never_on_the_untouched_target(tmp_path: Path) -> None:
    write_target(tmp_path)
    untouched = read_constants((tmp_path / "train.py").read_text())
    assert all(simulate(fragile_bowl, untouched, seed).val_bpb for seed in range(200))
    changed = [simulate(fragile_bowl, untouched | {"MATRIX_LR": 0.05}, seed) for seed in range(1000)]
    crashed = [simulated for simulated in changed if simulated.status is RunStatus.CRASHED]
    assert 20 <= len(crashed) <= 90
    assert {simulated.reason for simulated in crashed} == {"RuntimeError: out of memory"}


def test_preflight_accepts_changes_of_the_tiny_target(tmp_path: Path) -> None:
    write_target(tmp_path)
    source = (tmp_path / "train.py").read_text()
    assert check(set_constants(source, {"MATRIX_LR": 0.05}), source).is_clear
