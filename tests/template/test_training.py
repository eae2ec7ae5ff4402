"""Training as a whole: repeatable, learning, honest about failure; the script from end to end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from .conftest import FAKE_PREPARE, TINY, TRAIN_PY, Load

SUMMARY = [
    "val_bpb",
    "training_seconds",
    "total_seconds",
    "peak_vram_mb",
    "mfu_percent",
    "total_tokens_M",
    "num_steps",
    "num_params_M",
    "depth",
]


def losses_of_a_run(template: ModuleType, seed: int, steps: int = 6, warmed_up: bool = False) -> list[float]:
    prepare = template.prepare
    prepare.STEPS = steps
    torch.manual_seed(seed)
    model = template.build_model(prepare.VOCAB_SIZE, prepare.MAX_SEQ_LEN)
    optimizers = template.build_optimizers(model)
    if warmed_up:
        template.warm_up(model, optimizers, prepare.MAX_SEQ_LEN)
    batches = prepare.make_dataloader(template.DEVICE_BATCH_SIZE, prepare.MAX_SEQ_LEN, seed=seed)
    clock = prepare.TrainingClock()
    accumulation = template.accumulation_steps(prepare.MAX_SEQ_LEN)
    assert template.train(model, optimizers, batches, accumulation, clock) == steps
    losses: list[float] = clock.losses
    return losses


def test_same_seed_and_steps_give_the_same_losses(tiny: ModuleType) -> None:
    first, second = losses_of_a_run(tiny, seed=3), losses_of_a_run(tiny, seed=3)
    assert first == second
    assert losses_of_a_run(tiny, seed=4) != first


def test_it_learns(load: Load) -> None:
    template = load(**TINY | {"TOTAL_BATCH_SIZE": 256, "DEVICE_BATCH_SIZE": 16})
    losses = losses_of_a_run(template, seed=0, steps=60)
    assert losses[0] == pytest.approx(3.47, abs=0.1)  # ln 32
    assert losses[-1] < 2.0


def test_the_warm_up_step_leaves_no_trace(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    warmed_up = losses_of_a_run(tiny, seed=3, warmed_up=True)
    assert warmed_up == losses_of_a_run(tiny, seed=3)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: ModuleType) -> None:
    torch.manual_seed(0)
    model = tiny.build_model(32, 16)
    inputs, targets, _ = next(tiny.prepare.make_dataloader(4, 16))
    whole = tiny.backpropagate(model, iter([(inputs, targets, 0)]), 1)
    expected = model.embedding.weight.grad.clone(), model.head.weight.grad.clone()
    model.zero_grad()
    halves = [(inputs[:2], targets[:2], 0), (inputs[2:], targets[2:], 0)]
    torch.testing.assert_close(tiny.backpropagate(model, iter(halves), 2), whole)
    torch.testing.assert_close((model.embedding.weight.grad, model.head.weight.grad), expected)


def write_script(folder: Path, **constants: object) -> None:
    """A folder as a worker lays it out: train.py with other constants, and prepare.py."""
    source = TRAIN_PY.read_text()
    for name, value in (TINY | constants).items():
        source, found = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value!r}", source)
        assert found == 1, name
    (folder / "train.py").write_text(source)
    (folder / "prepare.py").write_text(FAKE_PREPARE)


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    command = [sys.executable, "train.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_script_prints_the_summary(tmp_path: Path) -> None:
    write_script(tmp_path)
    done = run_script(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    log, summary = done.stdout.split("---\n")
    assert log.startswith("step     1    0%  loss 3.4")
    values = dict(line.split(": ") for line in summary.splitlines())
    assert list(values) == SUMMARY
    assert values["num_steps"] == "6"
    assert values["depth"] == "3"
    assert float(values["total_tokens_M"]) == pytest.approx(6 * 64 / 1e6)
    assert float(values["mfu_percent"]) == 0.0


def test_an_exploding_run_says_fail_and_measures_nothing(tmp_path: Path) -> None:
    write_script(tmp_path, MATRIX_LR=1e38)
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "val_bpb" not in done.stdout


def test_a_batch_that_does_not_divide_is_one_clear_line(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    template = load(**TINY | {"TOTAL_BATCH_SIZE": 100})
    with pytest.raises(SystemExit) as stopped:
        template.main()
    assert str(stopped.value).startswith("train: TOTAL_BATCH_SIZE 100 is no multiple of")
