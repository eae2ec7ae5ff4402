"""Simulated workers: results become durable in batches, and cancelling, settling and describing work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from autohyp.agents.base import RunOrder
from autohyp.agents.simulated import BatchedLedger, SimulatedWorkers
from autohyp.config import CampaignConfig
from autohyp.errors import ConfigError, JournalError
from autohyp.execution.simulation import Trainer
from autohyp.journal import Draft
from autohyp.journal.events import NoteWritten, RunFinished, RunLost
from autohyp.records import Hardware, RunStatus, WorkerLive
from autohyp.testing.fakes import make_run
from autohyp.testing.objectives import bowl, broken, fragile_bowl

FOREVER_S = 3600.0
DEADLINE_S = 20.0


class GatedLedger:
    """Remembers each call; while `gate` is closed a call does not return. Keys in `refused` are refused."""

    def __init__(self) -> None:
        self.calls: list[list[Draft]] = []
        self.refused: set[str] = set()
        self.beats: list[tuple[WorkerLive, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failure: Exception | None = None

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> Any:
        self.entered.set()
        assert self.gate.wait(DEADLINE_S)
        if self.failure is not None:
            raise self.failure
        self.calls.append(list(drafts))
        if self.refused & {draft.key for draft in drafts}:
            raise JournalError("this cannot follow")

    def news(self, since: int) -> Any:
        raise NotImplementedError

    def heartbeat(self, *lives: WorkerLive) -> None:
        self.beats.append(lives)

    @property
    def events(self) -> dict[str, Any]:
        return {draft.key: draft.event for call in self.calls for draft in call}


def configuration(**simulation: Any) -> CampaignConfig:
    given = {"trainer": "autohyp.testing.objectives:bowl", "time_scale": 0.0} | simulation
    config = CampaignConfig.model_validate({"simulation": given, "run": {"budget_s": FOREVER_S}})
    return config.resolved(Hardware(cpus=1, memory_gb=1.0))


def workers(ledger: GatedLedger, n: int = 3, trainer: Trainer = bowl, **simulation: Any) -> SimulatedWorkers:
    names = [f"worker-{number}" for number in range(n)]
    return SimulatedWorkers(names, configuration(**simulation), trainer, ledger)


def order(seed: int = 42, **constants: float) -> RunOrder:
    return RunOrder(make_run(seed=seed), "c" * 40, "a title", "hyp-1", constants or {"MATRIX_LR": 0.05})


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scene()

    asyncio.run(timed())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0)


def note(text: str) -> Draft:
    return Draft(text, NoteWritten(author="test", text=text))


def test_a_run_is_recorded_before_it_returns() -> None:
    ledger = GatedLedger()

    async def scene() -> None:
        await workers(ledger).run("worker-1", order())
        event = ledger.events["finish:exp-0001.s42.a1"]
        assert isinstance(event, RunFinished)
        assert event.result.val_bpb == bowl({"MATRIX_LR": 0.05}, 42).val_bpb
        assert event.result.sandbox == "simulated"

    play(scene)


def test_what_ends_during_a_call_goes_together_with_the_next() -> None:
    ledger = GatedLedger()
    ledger.gate.clear()

    async def scene() -> None:
        crew = workers(ledger, 50)
        runs = [asyncio.create_task(crew.run("worker-0", order(0)))]
        await until(ledger.entered.is_set)
        runs += [asyncio.create_task(crew.run(f"worker-{n}", order(n))) for n in range(1, 50)]
        await asyncio.sleep(0)  # every run reaches the ledger: their time is scaled to nothing
        assert not any(run.done() for run in runs)
        ledger.gate.set()
        await asyncio.gather(*runs)

    play(scene)
    assert [len(call) for call in ledger.calls] == [1, 49]
    assert len(ledger.events) == 50


def test_a_refused_draft_does_not_take_others_with_it() -> None:
    ledger = GatedLedger()
    ledger.gate.clear()
    ledger.refused = {"b"}

    async def scene() -> None:
        batched = BatchedLedger(ledger)
        tasks = {"first": asyncio.create_task(batched.append(note("first")))}
        await until(ledger.entered.is_set)
        tasks |= {key: asyncio.create_task(batched.append(note(key))) for key in "abc"}
        await asyncio.sleep(0)
        ledger.gate.set()
        await asyncio.wait(tasks.values())
        failed = {key for key, task in tasks.items() if task.exception() is not None}
        assert failed == {"b"}
        assert isinstance(tasks["b"].exception(), JournalError)

    play(scene)
    assert [[draft.key for draft in call] for call in ledger.calls] == [
        ["first"],
        ["a", "b", "c"],
        ["a"],
        ["b"],
        ["c"],
    ]


def test_a_ledger_out_of_reach_fails_all_who_wait_and_is_asked_again_later() -> None:
    ledger = GatedLedger()
    ledger.failure = ConnectionError("gone")

    async def scene() -> None:
        crew = workers(ledger)
        ended = await asyncio.gather(
            *(crew.run(f"worker-{n}", order(n)) for n in range(3)), return_exceptions=True
        )
        assert [type(end) for end in ended] == [ConnectionError] * 3
        ledger.failure = None
        await crew.run("worker-0", order(9))

    play(scene)
    assert list(ledger.events) == ["finish:exp-0001.s9.a1"]


def test_a_caller_that_went_away_holds_nobody_up() -> None:
    ledger = GatedLedger()
    ledger.gate.clear()

    async def scene() -> None:
        batched = BatchedLedger(ledger)
        gone = asyncio.create_task(batched.append(note("gone")))
        await until(ledger.entered.is_set)
        stays = asyncio.create_task(batched.append(note("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        ledger.gate.set()
        await stays

    play(scene)
    assert [[draft.key for draft in call] for call in ledger.calls] == [["gone"], ["stays"]]


def test_cancel_interrupts_what_runs_and_lets_nothing_start() -> None:
    ledger = GatedLedger()

    async def scene() -> None:
        crew = workers(ledger, time_scale=1.0)
        runs = [asyncio.create_task(crew.run(f"worker-{n}", order(n))) for n in range(2)]
        await until(lambda: all(crew.describe(f"worker-{n}").state == "running" for n in range(2)))
        crew.cancel("worker-1")
        await runs[1]
        assert not runs[0].done()
        crew.cancel()
        await runs[0]
        await crew.run("worker-2", order(2))

    play(scene)
    assert all(isinstance(event, RunLost) and not event.at_fault for event in ledger.events.values())
    assert set(ledger.events) == {f"lost:exp-0001.s{seed}.a1" for seed in range(3)}


def test_settle_waits_for_the_order_and_its_record() -> None:
    ledger = GatedLedger()
    ledger.gate.clear()

    async def scene() -> None:
        crew = workers(ledger)
        run = asyncio.create_task(crew.run("worker-0", order()))
        await until(ledger.entered.is_set)
        settled = asyncio.create_task(crew.settle("worker-0"))
        await crew.settle("worker-1")  # an idle one is settled at once
        assert not settled.done()
        ledger.gate.set()
        await settled
        assert ledger.events
        await run

    play(scene)


def test_a_worker_tells_its_run_and_progress_and_then_that_it_is_idle() -> None:
    ledger = GatedLedger()

    async def scene() -> None:
        crew = workers(ledger, time_scale=1.0)
        assert crew.describe("worker-0").state == "idle"
        run = asyncio.create_task(crew.run("worker-0", order()))
        await until(lambda: crew.describe("worker-0").state == "running")
        live = crew.describe("worker-0")
        assert (live.run_id, live.experiment_id, live.title) == ("exp-0001.s42.a1", "exp-0001", "a title")
        assert live.progress is not None
        assert 0 <= live.progress.progress < 0.01
        crew.cancel()
        await run
        assert (crew.describe("worker-0").state, crew.describe("worker-0").run_id) == ("idle", "")

    play(scene)


def test_heartbeats_tell_all_workers_in_one_call() -> None:
    ledger = GatedLedger()

    async def scene() -> None:
        beating = asyncio.create_task(workers(ledger, 200).beat())
        await until(lambda: len(ledger.beats) > 0)
        beating.cancel()

    play(scene)
    assert len({live.worker_id for live in ledger.beats[0]}) == len(ledger.beats[0]) == 200


def test_time_is_scaled() -> None:
    ledger = GatedLedger()

    async def scene() -> None:
        start = time.monotonic()
        await workers(ledger, time_scale=0.1 / FOREVER_S).run("worker-0", order())
        assert 0.1 <= time.monotonic() - start < DEADLINE_S / 2

    play(scene)


@pytest.mark.parametrize(
    ("trainer", "constants", "reason"),
    [
        (fragile_bowl, {"MATRIX_LR": 9.0}, "ValueError: the loss is not finite"),
        (broken, {}, "simulation.trainer: broken returned float, not a SimulatedRun"),
    ],
)
def test_a_trainer_that_fails_is_a_crash_of_the_run(trainer: Any, constants: Any, reason: str) -> None:
    ledger = GatedLedger()
    play(lambda: workers(ledger, trainer=trainer).run("worker-0", order(**constants)))
    [event] = ledger.events.values()
    assert (event.result.status, event.result.reason) == (RunStatus.CRASHED, reason)


def test_without_a_simulation_there_are_no_simulated_workers() -> None:
    with pytest.raises(ConfigError, match="simulation"):
        SimulatedWorkers(["worker-0"], CampaignConfig(), bowl, GatedLedger())
