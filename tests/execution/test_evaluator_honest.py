"""Honest models are never refused for numerical reasons, whatever their size, precision and batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autohyp.execution.evaluation.checks import log_softmax, rank_sum_p_value
from autohyp.testing.scripted_client import Honest, losses_of
from autohyp.testing.scripted_training import evaluate_model, tiny_data


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 0.5, 2.0, 4.0]),
    batch=st.sampled_from([1, 4, 7, 16]),
    n_rows=st.integers(8, 70),
    precision=st.sampled_from(["float32", "rounded", "noisy"]),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_honest_models_are_never_refused(
    seed: int, scale: float, batch: int, n_rows: int, precision: str, device: str
) -> None:
    data = tiny_data(n_rows=n_rows, sequence_len=12, seed=seed)
    noise = {"float32": 0.0, "rounded": 0.01, "noisy": 0.015}[precision]
    model = Honest(data.vocab_size, seed, scale, noise, rounded=precision == "rounded")
    result = evaluate_model(model, data, batch, seed, device)
    assert result.status == "ok", result.reason


def test_log_softmax_agrees_with_the_cross_entropy_and_survives_large_logits() -> None:
    logits = 300 * np.random.default_rng(0).standard_normal((3, 5, 11)).astype(np.float32)
    targets = np.arange(15, dtype=np.uint16).reshape(3, 5) % 11
    chosen = np.take_along_axis(log_softmax(logits), targets.astype(int)[..., None], -1)[..., 0]
    np.testing.assert_allclose(-chosen, losses_of(logits, targets), atol=1e-3)
    assert np.isneginf(log_softmax(np.array([0, -np.inf], np.float32))[1])


@pytest.mark.parametrize("n", [1, 4, 12, 13, 60])
def test_the_rank_test_keeps_its_promise(n: int) -> None:
    ranks = np.random.default_rng(0).random((20_000, n))
    p_values = np.array([rank_sum_p_value(row) for row in ranks])
    for level in (0.5, 0.1, 0.01):
        assert np.mean(p_values < level) <= level + 4 * np.sqrt(level / 20_000)


def test_the_rank_test_finds_ranks_at_the_top() -> None:
    assert rank_sum_p_value(np.full(6, 0.98)) < 1e-7
    assert rank_sum_p_value(np.full(100, 0.8)) < 1e-10
    assert rank_sum_p_value(np.zeros(0)) == 1.0
