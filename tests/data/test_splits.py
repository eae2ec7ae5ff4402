"""Splits share nothing, whatever the text looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

SPLITS = ("train", "val", "holdout")


def texts_of_splits(prepare: ModuleType, documents: Sequence[Any]) -> tuple[dict[str, list[str]], int]:
    plan = prepare.plan_splits(documents)
    kept: dict[str, list[str]] = {name: [] for name in SPLITS}
    for document, split in zip(documents, plan.split, strict=True):
        if split != prepare.DROPPED:
            kept[SPLITS[split]].append(document.text)
    return kept, plan.duplicates_removed


def assert_disjoint(kept: dict[str, list[str]]) -> None:
    train, val, holdout = (set(kept[name]) for name in SPLITS)
    assert not train & val
    assert not train & holdout
    assert not val & holdout


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), min_size=30, max_size=120))
def test_no_document_is_in_two_splits(prepare: ModuleType, spec: list[tuple[int, int]]) -> None:
    documents = [
        prepare.Document(f"text {number}", unit)
        for unit, (number, repeat) in enumerate(spec)
        for _ in range(repeat)
    ]
    try:
        kept, removed = texts_of_splits(prepare, documents)
    except prepare.PrepareError:
        return  # so few different texts that a split lost all of its own
    assert_disjoint(kept)
    assert removed == len(documents) - sum(map(len, kept.values()))


def test_shares_and_units(prepare: ModuleType) -> None:
    documents = [prepare.Document(f"document {n:05d}", n // 5) for n in range(5000)]
    plan = prepare.plan_splits(documents)
    shares = np.bincount(plan.split, minlength=3) / len(documents)
    assert shares[1] == pytest.approx(0.05, abs=0.002)
    assert shares[2] == pytest.approx(0.05, abs=0.002)
    assert (plan.split.reshape(-1, 5) == plan.split[::5, None]).all()
    assert plan.duplicates_removed == 0


def test_splits_follow_the_content_not_the_order(prepare: ModuleType) -> None:
    documents = [prepare.Document(f"document {n}", n) for n in range(500)]
    reordered = [document._replace(unit=n) for n, document in enumerate(documents[::-1])]
    first, _ = texts_of_splits(prepare, documents)
    second, _ = texts_of_splits(prepare, reordered)
    assert {name: set(kept) for name, kept in first.items()} == {
        name: set(kept) for name, kept in second.items()
    }


def test_duplicates_of_fixed_splits_leave_val_whole(prepare: ModuleType) -> None:
    spec = [("train", "a b c d"), ("val", "c v v"), ("holdout", "d v h")]
    documents = [
        prepare.Document(text, n, split) for n, (split, line) in enumerate(spec) for text in line.split()
    ]
    kept, removed = texts_of_splits(prepare, documents)
    assert kept == {"train": ["a", "b"], "val": ["c", "v", "v"], "holdout": ["d", "h"]}
    assert removed == 3


def test_prepared_splits_are_disjoint_and_complete(prepare: ModuleType, prepared: Path, corpus: Path) -> None:
    data, tokenizer = prepare.PreparedData(prepared), prepare.Tokenizer.from_data(prepared)
    kept: dict[str, list[str]] = {name: [] for name in SPLITS}
    for name in SPLITS:
        for file in data.token_files(name):
            for start, end in zip(file.offsets, file.offsets[1:], strict=False):
                assert file.tokens[start] == tokenizer.bos_token_id
                kept[name].append(tokenizer.decode(file.tokens[start + 1 : end].tolist()))
        assert len(kept[name]) == data.meta["splits"][name]["documents"]
        assert sum(len(text.encode()) for text in kept[name]) == data.meta["splits"][name]["bytes"]
    assert_disjoint(kept)
    stored = sorted(text for texts in kept.values() for text in texts)
    assert stored == sorted(prepare.read_json_lines(corpus, "text"))
