"""Loads train.py as a module, with constants overridden and a small stand-in for `prepare`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

TEMPLATE_DIR = Path(__file__).parents[2] / "train_template"
TRAIN_PY = TEMPLATE_DIR / "train.py"

TINY = {
    "DEPTH": 3,
    "ASPECT_RATIO": 8,
    "HEAD_DIM": 8,
    "VALUE_GATE_CHANNELS": 4,
    "TOTAL_BATCH_SIZE": 64,
    "DEVICE_BATCH_SIZE": 2,
}

# The interface of prepare.py that train.py uses. The text counts upwards by ones or by twos; the
# clock counts steps instead of seconds, so that nothing depends on the speed of the machine.
FAKE_PREPARE = """
import os
import torch

MAX_SEQ_LEN = 16
VOCAB_SIZE = 32
SEED = int(os.environ.get("AUTOHYP_SEED", "42"))
STEPS = 6


class Tokenizer:
    vocab_size = VOCAB_SIZE

    @classmethod
    def from_data(cls):
        return cls()


def make_dataloader(device_batch_size, sequence_len, split="train", device=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        shape = (device_batch_size, 1)
        start = torch.randint(VOCAB_SIZE, shape, generator=generator)
        stride = torch.randint(1, 3, shape, generator=generator)
        rows = (start + stride * torch.arange(sequence_len + 1)) % VOCAB_SIZE
        yield rows[:, :-1], rows[:, 1:], 0


class TrainingClock:
    def __init__(self):
        self.losses = []
        self.elapsed_s = 0.5

    def start(self):
        pass

    @property
    def progress(self):
        return len(self.losses) / STEPS

    @property
    def expired(self):
        return len(self.losses) >= STEPS

    def report(self, step, loss):
        assert step == len(self.losses) + 1
        self.losses.append(loss)


def evaluate_bpb(model, device_batch_size):
    inputs, targets, _ = next(make_dataloader(device_batch_size, MAX_SEQ_LEN, seed=7))
    with torch.no_grad():
        return model(inputs, targets, reduction="none").mean().item()


def print_summary(**values):
    print("---")
    for name, value in values.items():
        print(f"{name}: {value}")
"""

Load = Callable[..., ModuleType]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(**constants)` gives train.py as a module on the CPU; without any, the reference."""

    def load_template(**constants: object) -> ModuleType:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        fake = ModuleType("prepare")
        exec(FAKE_PREPARE, fake.__dict__)
        monkeypatch.setitem(sys.modules, "prepare", fake)
        spec = importlib.util.spec_from_file_location("train_template", TRAIN_PY)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
        return module

    return load_template


@pytest.fixture
def tiny(load: Load) -> ModuleType:
    return load(**TINY)
