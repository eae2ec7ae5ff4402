"""What is refused before it costs a run, and that the sentence says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autohyp.execution.preflight import PreflightLimits, check
from autohyp.source import fingerprint, set_constants
from autohyp.testing.search_game import TOY_SOURCE

TRAIN = Path(__file__).parents[2].joinpath("train_template", "train.py").read_text(encoding="utf-8")
GPU = PreflightLimits(sequence_len=2048)


def test_the_template_is_clear() -> None:
    report = check(TRAIN, None, limits=GPU)
    assert report.problems == ()
    assert report.is_clear
    assert report.fingerprint == fingerprint(TRAIN)
    assert report.constants["DEPTH"] == 8


def test_a_good_change_is_clear() -> None:
    assert check(
        set_constants(TRAIN, {"MATRIX_LR": 0.05}), TRAIN, {fingerprint(TRAIN): "exp-0001"}, GPU
    ).is_clear


def _changed(before: str, after: str) -> str:
    assert before in TOY_SOURCE
    return TOY_SOURCE.replace(before, after)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = = 1\n", "line 1: invalid syntax"),
        ("x = 1\0", "null bytes"),
        ("(" * 5000, "train.py"),
        ("#" * 300_000, "has 300,000 bytes; at most 262,144"),
        (TOY_SOURCE + "# a comment\n", "changes nothing"),
        (TOY_SOURCE + "import subprocess\n", "imports subprocess"),
        (TOY_SOURCE + "def f():\n    import socket\n", "imports socket"),
        (TOY_SOURCE + "from . import helper\n", "relatively"),
        (TOY_SOURCE + "x = __import__('os')\n", "calls __import__()"),
        (TOY_SOURCE + "exec('x = 1')\n", "calls exec()"),
        (_changed("DEVICE_BATCH_SIZE = 32", "DEVICE_BATCH_SIZE = 100"), "is not a multiple of"),
        (_changed("DEPTH = 8", "DEPTH = 1"), "DEPTH is 1; it must be at least 2"),
        (_changed("DEPTH = 8", "DEPTH = 2.5"), "whole number"),
        (_changed("HEAD_DIM = 128", "HEAD_DIM = 9"), "even"),
        (_changed("WARMUP_RATIO = 0.0", "WARMUP_RATIO = 0.6"), "together at most 1"),
        (_changed("(0.8, 0.95)", "(0.8, 1.0)"), r"ADAM_BETAS[1] is 1.0; it must be below 1"),
        (_changed("prepare.SEED", "42"), "sets a seed of its own"),
        (_changed("prepare.TrainingClock()", "None"), "prepare.TrainingClock is no longer used"),
        (_changed("prepare.evaluate_bpb(None, DEVICE_BATCH_SIZE)", "0.5"), "evaluate_bpb is never called"),
        (TOY_SOURCE + "prepare.evaluate_bpb = lambda *a: 0.5\n", "redefines prepare.evaluate_bpb"),
        (TOY_SOURCE + "setattr(prepare, 'SEED', 7)\n", "changes prepare"),
        (TOY_SOURCE + "def evaluate_bpb(model, rows):\n    return 0.5\n", "redefines evaluate_bpb"),
        (TOY_SOURCE + "import torch as prepare\n", "redefines prepare"),
        (TOY_SOURCE + "for prepare in []: pass\n", "redefines prepare"),
        (TOY_SOURCE + "del prepare\n", "redefines prepare"),
    ],
)
def test_refusals(source: str, reason: str) -> None:
    report = check(source, TOY_SOURCE, (), GPU)
    assert not report.is_clear
    assert reason in report.reason


def test_duplicates_name_who_had_them() -> None:
    changed = set_constants(TOY_SOURCE, {"MATRIX_LR": 0.05})
    known = {fingerprint(changed): "exp-0007"}
    assert "tried or proposed before as exp-0007" in check(changed, TOY_SOURCE, known).reason
    assert "tried or proposed before" in check(changed + "\n# again\n", TOY_SOURCE, set(known)).reason


def test_every_problem_is_told_once() -> None:
    source = _changed("DEPTH = 8", "DEPTH = 1") + "import socket\nimport socket\nexec('')\n"
    problems = check(source, TOY_SOURCE, (), GPU).problems
    assert len(problems) == len(set(problems)) == 4


def test_what_the_parent_does_is_allowed() -> None:
    parent = TOY_SOURCE + "import tomllib\ndef make_dataloader():\n    return 1\n"
    assert check(set_constants(parent, {"MATRIX_LR": 0.05}), parent).is_clear


def test_needs_no_torch() -> None:
    program = (
        "import sys, autohyp.execution.preflight; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
