"""How large a train.py is, told without computing anything; and what is made of that while a run starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autohyp.execution.job import TrainingJob
from autohyp.execution.sandbox.base import Sandbox
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox
from autohyp.execution.sizing import Forecast, Size, measure_size
from autohyp.source import set_constants
from autohyp.testing.scripted_training import write_tiny_data

TEMPLATE = Path(__file__).parents[2] / "train_template" / "train.py"
VOCABULARY, LENGTH = 32, 16
PREPARE = f"""
import numpy

MAX_SEQ_LEN, SEED = {LENGTH}, 42


class Tokenizer:
    vocab_size = {VOCABULARY}
    from_data = classmethod(lambda cls: cls())


def refuse(*_, **__):
    raise AssertionError("the real one is used")


make_dataloader = TrainingClock = evaluate_bpb = print_summary = refuse
"""
LINEAR = """
import torch
import prepare

ROWS, WIDTH = 4, 1000
first, second = torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.Linear(WIDTH, WIDTH, bias=False)
second.weight = first.weight  # tied
model = torch.nn.Sequential(torch.nn.Embedding(32, WIDTH), first, second).to(torch.float64).float()
clock = prepare.TrainingClock()
clock.start()
step = 0
for inputs, targets, epoch in prepare.make_dataloader(ROWS, prepare.MAX_SEQ_LEN, split="train", seed=1):
    if clock.expired:
        break
    loss = model(inputs).square().mean()
    loss.backward()
    step += 1
    if not loss.item() < 100:
        raise SystemExit("exploded")
    clock.report(step, loss.item())
try:
    prepare.evaluate_bpb(model, ROWS)
except Exception:
    pass
while True:
    pass
"""
SIZE = Size(num_params_m=1.0, tflops_per_step=2.0, memory_mb=100.0)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., TrainingJob]:
    """Makes a job for a train.py of the given text."""
    write_tiny_data(tmp_path / "data")

    def make(source: str, sandbox: Sandbox | None = None) -> TrainingJob:
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / "prepare.py").write_text(PREPARE)
        (tmp_path / "source" / "train.py").write_text(source)
        return TrainingJob(
            run_id="r",
            source_dir=tmp_path / "source",
            scratch_dir=tmp_path / "scratch",
            data_dir=tmp_path / "data",
            log_path=tmp_path / "log",
            seed=1,
            budget_s=1,
            startup_allowance_s=1,
            evaluation_timeout_s=1,
            sandbox=sandbox or UnconfinedSandbox(),
        )

    return make


@pytest.mark.parametrize("sandbox", [BubblewrapSandbox(), LandlockSandbox()], ids=lambda box: box.name)
def test_parameters_flops_and_memory_are_those_of_a_step(
    job: Callable[..., TrainingJob], sandbox: Sandbox
) -> None:
    size = measure_size(job(LINEAR, sandbox))
    assert size is not None
    assert size.num_params_m == (1000**2 + 32 * 1000) / 1e6, "tied weights count once"
    tokens, weight = 4 * LENGTH, 1000**2
    # Two layers, each forward, to its input and to its weight; 2 FLOPs a multiplication and addition.
    assert size.tflops_per_step == 2 * 3 * 2 * tokens * weight / 1e12
    more = measure_size(
        job(set_constants(LINEAR.replace("ROWS, WIDTH = 4,", "ROWS = 4\nWIDTH ="), {"ROWS": 4000}))
    )
    assert more is not None
    assert more.num_params_m == size.num_params_m
    # What backward needs of the forward pass: each layer's output, fp32. Gradients come and go beside it.
    saved_mb = 3 * 3996 * LENGTH * 1000 * 4 / 2**20
    assert saved_mb < more.memory_mb - size.memory_mb < 3 * saved_mb


def test_the_template_is_told_at_any_size_in_little_memory(job: Callable[..., TrainingJob]) -> None:
    def told(**constants: Any) -> Size:
        size = measure_size(job(set_constants(TEMPLATE.read_text(), constants)))
        assert size is not None
        return size

    rows = {"TOTAL_BATCH_SIZE": 2**22, "DEVICE_BATCH_SIZE": 2**14}
    small, large = told(**rows, DEPTH=2), told(**rows, DEPTH=4, ASPECT_RATIO=2048)
    assert small.num_params_m < 1
    assert large.num_params_m > 4 * 12 * 8192**2 / 1e6
    assert large.memory_mb > 5e5, "half a terabyte, which no GPU has"
    half = told(TOTAL_BATCH_SIZE=2**22, DEVICE_BATCH_SIZE=2**13, DEPTH=2)
    assert 0.4 < half.memory_mb / small.memory_mb < 0.6
    assert half.tflops_per_step == pytest.approx(small.tflops_per_step), (
        "the step is the same, in more passes"
    )


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(0)",
        "import prepare\nprepare.evaluate_bpb(None, 1)",
        "import torch\ntorch.zeros(1, device='cuda').cpu().numpy().tolist()",
        "import sys, os\nopen(sys.argv[1], 'w').write('{}')\nos._exit(0)",
        "import sys, os\nopen(sys.argv[1], 'w').write('[' * 100000)\nos._exit(0)",
        "import sys, os\n"
        'open(sys.argv[1], \'w\').write(\'{"num_params_m": 1, "tflops_per_step": 1, "memory_mb": NaN}\')\n'
        "os._exit(0)",
    ],
)
def test_what_gets_to_no_step_has_no_size(job: Callable[..., TrainingJob], source: str) -> None:
    assert measure_size(job(source)) is None


def test_nobody_waits_for_a_script_that_never_ends(job: Callable[..., TrainingJob]) -> None:
    looks = iter([False, False, True])
    assert measure_size(job("while True: pass"), lambda: next(looks)) is None
    with pytest.raises(StopIteration):
        next(looks)


def found(forecast: Forecast) -> Forecast:
    """What it tells once it has thought as long as it likes."""
    forecast._work()
    return forecast


def test_a_run_far_too_large_for_its_gpu_is_ended_with_the_reason() -> None:
    forecast = found(
        Forecast(lambda _: SIZE, lambda _: Size(1.0, 1.0, 50.0), base_peak_mb=61_440, gpu_memory_mb=81_920)
    )
    assert forecast.veto() == "it would run out of memory: it needs about 120 GiB of this GPU's 80"
    assert forecast.facts() == {
        "sized_params_m": 1.0,
        "tflops_per_step": 2.0,
        "gpu_memory_mb": 81_920,
        "predicted_memory_mb": 122_880,
    }


@pytest.mark.parametrize(
    ("base", "base_peak_mb", "gpu_memory_mb"),
    [
        (Size(1.0, 1.0, 50.0), 45_000, 81_920),  # 90 GB of 82: within the error of a prediction
        (None, 61_440, 81_920),
        (Size(1.0, 1.0, 0.0), 61_440, 81_920),
        (Size(1.0, 1.0, 50.0), 0.0, 81_920),
        (Size(1.0, 1.0, 50.0), 61_440, 0.0),
    ],
)
def test_nothing_is_ended_on_a_guess(base: Size | None, base_peak_mb: float, gpu_memory_mb: float) -> None:
    forecast = found(Forecast(lambda _: SIZE, lambda _: base, base_peak_mb, gpu_memory_mb))
    assert forecast.veto() == ""
    assert forecast.facts()["sized_params_m"] == 1.0


def test_what_cannot_be_told_or_comes_too_late_is_nothing() -> None:
    assert found(Forecast()).facts() == {}
    has_begun = threading.Event()

    def endless(is_over: Callable[[], bool]) -> Size | None:
        has_begun.set()
        while not is_over():
            pass
        return None

    with Forecast(endless).made_meanwhile() as forecast:
        assert has_begun.wait(30)
        assert forecast.veto() == ""
    assert forecast.facts() == {}
    assert "forecast" not in {thread.name for thread in threading.enumerate()}
