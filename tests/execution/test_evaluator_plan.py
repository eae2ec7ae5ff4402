"""What is asked, and in which order: nothing is told before it may be known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autohyp.errors import DataError
from autohyp.execution.evaluation import (
    ClaimStep,
    OpenStep,
    Plan,
    ProbeStep,
    load_evaluation_data,
    make_plan,
    serve_evaluation,
)
from autohyp.execution.protocol import Frame, FrameChannel, Kind, json_payload
from autohyp.testing.scripted_training import tiny_data, write_tiny_data

plans = st.tuples(st.integers(8, 300), st.sampled_from([1, 4, 16, 128]), st.booleans(), st.integers(0, 2**32))


def draw(n_rows: int, batch: int, fixed_shape: bool, seed: int) -> tuple[Plan, np.ndarray]:
    data = tiny_data(n_rows=n_rows, sequence_len=16, vocab_size=50, seed=seed)
    plan = make_plan(data.rows, data.vocab_size, batch, fixed_shape, np.random.default_rng(seed))
    return plan, data.rows


@settings(max_examples=60)
@given(plans)
def test_every_row_counts_once(drawn: tuple[int, int, bool, int]) -> None:
    plan, rows = draw(*drawn)
    counted = Counter[int]()
    for step in plan.steps:
        if isinstance(step, OpenStep):
            counted.update(splice.row for splice in step.rows)
        elif isinstance(step, ClaimStep):
            counted.update(splice.row for splice in step.rows if splice.length == rows.shape[1])
    assert counted == Counter(range(len(rows)))


@settings(max_examples=60)
@given(plans)
def test_nothing_reveals_a_hidden_continuation_before_its_probe_is_answered(
    drawn: tuple[int, int, bool, int],
) -> None:
    plan, _ = draw(*drawn)
    opened = {s.row for step in plan.steps if isinstance(step, OpenStep) for s in step.rows}
    donors = {s.donor for step in plan.steps for s in step.rows if s.donor != s.row}
    assert donors.isdisjoint(plan.blind | opened)
    asked: dict[int, int] = {}
    for index, step in enumerate(plan.steps):
        assert step.after < index
        for splice in step.rows:
            if isinstance(step, ClaimStep) and splice.row in plan.blind:
                assert step.after >= asked[splice.row]
            asked.setdefault(splice.row, index)


@settings(max_examples=60)
@given(plans)
def test_probes_have_one_shape_and_contain_their_keys(drawn: tuple[int, int, bool, int]) -> None:
    plan, _ = draw(*drawn)
    probes = [step for step in plan.steps if isinstance(step, ProbeStep)]
    assert isinstance(plan.steps[0], ProbeStep)
    assert len({len(step.positions) for step in probes}) == 1
    for step in probes:
        assert set(step.keys) <= set(step.positions.tolist())
        assert all(key < splice.length for key, splice in zip(step.keys, step.rows, strict=True))
        assert np.all(np.diff(step.positions) > 0)


def test_splices_differ_right_after_the_prefix() -> None:
    plan, rows = draw(200, 16, False, 5)
    spliced = [s for step in plan.steps if isinstance(step, ProbeStep) for s in step.rows if s.donor != s.row]
    assert spliced
    assert all(rows[s.row, s.length] != rows[s.donor, s.length] for s in spliced)


def test_a_fixed_shape_gives_full_claims() -> None:
    plan, _ = draw(300, 32, True, 0)
    assert {len(step.rows) for step in plan.steps if isinstance(step, ClaimStep)} == {64}


def test_steps_are_sent_ahead_but_never_before_the_answer_that_they_wait_for() -> None:
    data, seed = tiny_data(n_rows=128), 3
    plan = make_plan(data.rows, data.vocab_size, 4, False, np.random.default_rng(seed))
    sent, ahead = [], []

    class Recorder(FrameChannel):
        answered = -1  # READY is not counted
        received_at_s = 1.0

        def __init__(self) -> None:
            pass

        def queue(self, kind: Kind, payload: bytes) -> None:
            if kind in (Kind.CLAIM, Kind.PROBE):
                assert self.answered > plan.steps[len(sent)].after
                ahead.append(len(sent) - self.answered)
                sent.append(kind)

        def receive(self, sizes: dict[Kind, int], deadline_s: float | None) -> Frame:
            self.answered += 1
            kind = next(iter(sizes))
            if kind is Kind.READY:
                return Frame(kind, bytearray(json_payload(device_batch_size=4, device="cpu")))
            return Frame(kind, bytearray(sizes[kind]))

        def flush(self, deadline_s: float) -> None:
            pass

    result = serve_evaluation(Recorder(), data, 1e9, np.random.default_rng(seed))
    assert result.cause == "violation"  # zeros are no honest answer, but all were taken
    assert len(sent) == len(plan.steps)
    assert max(ahead) == 1


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("val/rows.npy", b"", "cannot read"),
        ("val/rows.npy", b"\x93NUMPY torn", "cannot read"),
        ("tokenizer/token_bytes.npy", None, "cannot read"),
        ("meta.json", b"{}", "cannot read"),
        ("meta.json", b'{"sequence_len": 7, "vocab_size": 61}', "its meta.json says"),
    ],
)
def test_bad_data_is_one_clear_line(tmp_path: Path, path: str, content: bytes | None, message: str) -> None:
    write_tiny_data(tmp_path)
    assert load_evaluation_data(tmp_path, "val").rows.shape == (48, 33)
    (tmp_path / path).unlink() if content is None else (tmp_path / path).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_evaluation_data(tmp_path, "val")


def test_pickled_rows_are_refused(tmp_path: Path) -> None:
    write_tiny_data(tmp_path)
    np.save(tmp_path / "val" / "rows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read"):
        load_evaluation_data(tmp_path, "val")
