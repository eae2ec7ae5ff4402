"""Goes through one training step of a train.py on tensors that have shapes and no contents.

    python dry_run.py SIZE_FILE      (in the folder of train.py and prepare.py, in the sandbox)

The script runs as it is, as on a machine without a GPU, up to where it asks to be evaluated; data, clock and
evaluation are replaced. Nothing is computed and no memory taken (PyTorch's FakeTensorMode), so a model of any
size takes seconds. SIZE_FILE then holds the JSON object that `autohyp.execution.sizing.Size` is made of.
Exit code 1, and no file, for a script that does not get there.

A file by itself: the sandbox shows nothing else of autohyp. What a script forges here only decides whether it
gets its run, and no one but its own experiment loses by that.
"""

from __future__ import annotations

import json
import runpy
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["main"]


class _SteppedError(BaseException):
    """The script asks to be evaluated; not an Exception, so that no handler of the script's own keeps it."""


class _LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors alive; two views of one storage count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def _count(self, storage: Any) -> None:
        if storage not in self._known:
            self._known[storage] = None
            self.live_bytes += storage.nbytes()
            weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


class _OneStepClock:
    """A training clock that has expired after the first step."""

    budget_s, elapsed_s, progress = 300.0, 1.0, 0.0
    expired = False

    def __init__(self, budget_s: float | None = None) -> None:
        del budget_s

    def start(self) -> None: ...

    def close(self) -> None: ...

    def report(self, step: int, loss: float) -> None:
        del step, loss
        self.expired = True


def _batches(
    device_batch_size: int, sequence_len: int, *_: object, **__: object
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    while True:
        rows = torch.zeros(device_batch_size, sequence_len, dtype=torch.int64)
        yield rows, rows.clone(), 0


def _convert_in_place(module: torch.nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> Any:
    """`Module._apply` for tensors without contents, which PyTorch cannot swap; tied weights stay tied."""
    made: dict[int, tuple[Any, Any]] = {}
    for owner in module.modules() if recurse else [module]:
        for name, weight in owner._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    new = torch.nn.Parameter(function(weight.detach()), weight.requires_grad)
                    made[id(weight)] = made[id(new)] = (
                        weight,
                        new,
                    )  # both live on: no id is given anew
                owner._parameters[name] = made[id(weight)][1]
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = function(buffer)
    return module


def main(size_file: str) -> int:
    """Runs train.py of the working folder and writes its size; returns the exit code."""
    sys.path.insert(0, "")
    import prepare

    models: list[torch.nn.Module] = []

    def evaluate(model: torch.nn.Module, *_: object, **__: object) -> NoReturn:
        models.append(model)
        raise _SteppedError

    for owner, name, replacement in (
        (prepare, "make_dataloader", _batches),
        (prepare, "TrainingClock", _OneStepClock),
        (prepare, "evaluate_bpb", evaluate),
        (torch.nn.Module, "_apply", _convert_in_place),
        (torch.Tensor, "item", lambda _: 1.0),
    ):
        setattr(owner, name, replacement)
    memory, flops = _LiveMemory(), FlopCounterMode(display=False)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), memory, flops:
            runpy.run_path("train.py", run_name="__main__")
    except _SteppedError:
        size = {
            "num_params_m": sum(weight.numel() for weight in models[0].parameters()) / 1e6,
            "tflops_per_step": flops.get_total_flops() / 1e12,
            "memory_mb": memory.peak_bytes / 2**20,
        }
        Path(size_file).write_text(json.dumps(size), encoding="utf-8")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
