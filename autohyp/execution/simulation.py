"""Runs that only pretend to train: a callable tells what a run of some constants and a seed would give.

With `simulation.trainer: module:function` in the configuration, observer, ledger, journal and repository are
the real ones and training alone is made up: for trying the system itself with hundreds of workers on a small
machine. A trainer must be quick (milliseconds): it computes a run, and the worker lets the run's time pass.
What such a run records says "simulated" where a measured one names its sandbox.
Not covered: start-up, evaluation and confinement of a run.
"""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

from pydantic import Field, model_validator

from autohyp.errors import ConfigError
from autohyp.records import ConstantValue, CurvePoint, Progress, Record, Run, RunResult, RunStatus

__all__ = ["SIMULATED", "SimulatedRun", "Trainer", "load_trainer", "result_of", "simulate"]

SIMULATED = "simulated"
"""What stands where the sandbox's name stands for a real run."""

MAX_REASON_CHARS = 300


class SimulatedRun(Record):
    """How a run goes: its score (bits per byte), and (progress, training loss in nats per token) on the way.

    `duration_s` is in simulated seconds, None for the whole budget. One that fails has a status other than
    completed, no score, and the reason.
    """

    val_bpb: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    duration_s: float | None = Field(default=None, ge=0)
    status: RunStatus = RunStatus.COMPLETED
    reason: str = ""

    @model_validator(mode="after")
    def _has_a_score_if_completed(self) -> Self:
        if (self.status is RunStatus.COMPLETED) != (self.val_bpb is not None):
            raise ValueError(f"a run that is {self.status.value} has {self.val_bpb} as val_bpb")
        return self

    def lasts_s(self, budget_s: float) -> float:
        """Simulated seconds from its start to its end."""
        return budget_s if self.duration_s is None else self.duration_s

    def progress(self, share: float, elapsed_s: float) -> Progress:
        """Where it is when this share of its time has passed, `elapsed_s` real seconds."""
        step = bisect_right(self.curve, share, key=lambda point: point[0])
        loss = self.curve[step - 1][1] if step else None
        return Progress(phase="training", step=step, progress=min(share, 1.0), loss=loss, elapsed_s=elapsed_s)


Trainer = Callable[[Mapping[str, ConstantValue], int], SimulatedRun]
"""Turns a program's constants and a seed into a run; raising is a crash of that run."""


def load_trainer(name: str) -> Trainer:
    """The trainer called `module:function`. Raises ConfigError in one line when there is none."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"simulation.trainer: {module_name} cannot be imported: {_one_line(error)}; "
            "it must be installed or on PYTHONPATH"
        ) from None
    trainer = getattr(module, function_name, None)
    if not callable(trainer):
        what = "has no" if trainer is None else "has no callable"
        raise ConfigError(f"simulation.trainer: {module_name} {what} {function_name!r}")
    return cast(Trainer, trainer)


def simulate(trainer: Trainer, constants: Mapping[str, ConstantValue], seed: int) -> SimulatedRun:
    """One run; an exception of the trainer is a crash at its start, with the exception as the reason.

    Raises ConfigError when the trainer gives something that is no run: a mistake in it, not an outcome.
    """
    try:
        run: object = trainer(constants, seed)
    except Exception as error:
        return SimulatedRun(duration_s=0.0, status=RunStatus.CRASHED, reason=_one_line(error))
    if not isinstance(run, SimulatedRun):
        name = getattr(trainer, "__qualname__", repr(trainer))
        raise ConfigError(f"simulation.trainer: {name} returned {type(run).__name__}, not a SimulatedRun")
    return run


def result_of(simulated: SimulatedRun, run: Run, budget_s: float) -> RunResult:
    """The result that the run's worker records; all times are simulated seconds."""
    lasts_s = simulated.lasts_s(budget_s)
    curve = tuple(
        CurvePoint(step=step, progress=progress, loss=loss)
        for step, (progress, loss) in enumerate(simulated.curve, start=1)
    )
    facts: dict[str, Any] = run.model_dump(exclude={"started_at"})
    return RunResult(
        **facts,
        status=simulated.status,
        reason=simulated.reason,
        val_bpb=simulated.val_bpb,
        budget_s=budget_s,
        charged_s=min(lasts_s, budget_s),
        total_s=lasts_s,
        num_steps=len(curve),
        curve=curve,
        sandbox=SIMULATED,
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARS]
