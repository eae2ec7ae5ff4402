"""Rows are packed exactly as the slow, obvious description says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def reference_rows(documents: list[list[int]], row_len: int, n_rows: int) -> list[list[int]]:
    """COMPAT.md word for word: a list, scanned for each choice."""

    def batches() -> Iterator[list[list[int]]]:
        while True:
            for first in range(0, len(documents), 128):
                yield documents[first : first + 128]

    source, buffer, rows = batches(), [], []
    while len(rows) < n_rows:
        row: list[int] = []
        while len(row) < row_len:
            while len(buffer) < 1000:
                buffer.extend(next(source))
            space = row_len - len(row)
            fitting = [document for document in buffer if len(document) <= space]
            # max() and min() return the first of equals: the one that came first.
            chosen = max(fitting, key=len) if fitting else min(buffer, key=len)
            del buffer[next(n for n, document in enumerate(buffer) if document is chosen)]
            row += chosen[:space]
        rows.append(row)
    return rows


def token_file(prepare: ModuleType, documents: list[list[int]]) -> Any:
    offsets = np.concatenate(([0], np.cumsum([len(document) for document in documents]))).astype(np.int64)
    return prepare.TokenFile(
        np.array([token for document in documents for token in document], np.uint16), offsets
    )


def numbered(lengths: list[int]) -> list[list[int]]:
    """Documents that can be told apart: each starts with its own number."""
    return [[number + 1] + [0] * (length - 1) for number, length in enumerate(lengths)]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(2, 40))
def test_rows_are_those_of_the_reference(prepare: ModuleType, lengths: list[int], row_len: int) -> None:
    documents = numbered(lengths)
    rows = np.empty((12, row_len), np.uint16)
    prepare.RowPacker(prepare.document_batches([token_file(prepare, documents)])).fill(rows)
    assert rows.tolist() == reference_rows(documents, row_len, 12)


def test_rows_over_several_epochs_and_fills(prepare: ModuleType) -> None:
    lengths = np.random.default_rng(1).integers(1, 90, 1700).tolist()
    packer = prepare.RowPacker(prepare.document_batches([token_file(prepare, numbered(lengths))]))
    rows, epochs = np.empty((400, 33), np.uint16), []
    for first in range(0, 400, 100):
        packer.fill(rows[first : first + 100])
        epochs.append(packer.epoch)
    assert rows.tolist() == reference_rows(numbered(lengths), 33, 400)
    assert epochs[0] == 1
    assert epochs == sorted(epochs)
    assert epochs[-1] > 1


@pytest.mark.parametrize("split", ["val", "holdout"])
def test_stored_rows_are_those_of_the_reference(prepare: ModuleType, prepared: Path, split: str) -> None:
    data = prepare.PreparedData(prepared)
    (file,) = data.token_files(split)
    bounds = zip(file.offsets, file.offsets[1:], strict=False)
    documents = [file.tokens[start:end].tolist() for start, end in bounds]
    rows = data.rows(split)
    assert rows.shape == (16, 65)
    assert rows.dtype == np.uint16
    assert rows.tolist() == reference_rows(documents, 65, 16)
    assert (rows[:, 0] == data.meta["bos_token_id"]).all()


def test_the_loader_gives_the_stored_rows(prepare: ModuleType, active: Path) -> None:
    loader = prepare.make_dataloader(4, 64, "val")
    for first, (inputs, targets, epoch) in zip(range(0, 16, 4), loader, strict=False):
        rows = prepare.PreparedData().rows("val")[first : first + 4].astype(np.int64)
        assert inputs.tolist() == rows[:, :-1].tolist()
        assert targets.tolist() == rows[:, 1:].tolist()
        assert epoch >= 1


def test_batches_stay_as_they_were(prepare: ModuleType, active: Path) -> None:
    loader = prepare.make_dataloader(2, 64)
    batches = list(islice(loader, 5))
    copies = [inputs.clone() for inputs, _, _ in batches]
    list(islice(loader, 5))
    assert all((inputs == copy).all() for (inputs, _, _), copy in zip(batches, copies, strict=True))
    assert len({str(inputs.tolist()) for inputs in copies}) == 5


def test_inputs_and_targets_are_contiguous_and_apart(prepare: ModuleType, active: Path) -> None:
    inputs, targets, _ = next(prepare.make_dataloader(3, 64))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert inputs[:, 1:].tolist() == targets[:, :-1].tolist()
    targets.fill_(-1)
    assert inputs.min() >= 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_copies_are_those_of_the_cpu(prepare: ModuleType) -> None:
    """Staging memory is not refilled while a copy from it may still be under way."""
    documents = numbered(np.random.default_rng(3).integers(2, 3000, 3000).tolist())
    cpu, cuda = (
        prepare._batches_on_device(
            prepare.RowPacker(prepare.document_batches([token_file(prepare, documents)])), (64, 2049), device
        )
        for device in ("cpu", "cuda")
    )
    busy = torch.randn(4096, 4096, device="cuda")
    arrived = []
    for _ in range(12):
        busy = busy @ busy / 4096  # the copies queue up behind this
        arrived.append(next(cuda))
    for (inputs, targets, epoch), expected in zip(arrived, cpu, strict=False):
        assert (inputs.cpu() == expected[0]).all()
        assert (targets.cpu() == expected[1]).all()
        assert epoch == expected[2]


def test_large_token_ids_survive_the_sixteen_bits(prepare: ModuleType) -> None:
    file = token_file(prepare, [[65535, 40000, 1]])
    packer = prepare.RowPacker(prepare.document_batches([file]))
    inputs, targets, _ = next(prepare._batches_on_device(packer, (1, 3), "cpu"))
    assert inputs.tolist() == [[65535, 40000]]
    assert targets.tolist() == [[40000, 1]]


def first_tokens(prepare: ModuleType, documents: list[list[int]], seed: int) -> list[int]:
    batches = prepare.document_batches([token_file(prepare, documents)], seed)
    return [int(document[0]) for batch, epoch in islice(batches, 4) for document in batch]


def test_a_seed_changes_the_order_not_the_documents(prepare: ModuleType) -> None:
    documents = numbered([5] * 200)  # two batches an epoch
    stored, first, again, other = (first_tokens(prepare, documents, seed) for seed in (0, 7, 7, 8))
    assert stored == [*range(1, 201)] * 2
    assert first == again
    assert first != other
    assert sorted(first[:200]) == sorted(first[200:]) == stored[:200]
    assert first[:200] != first[200:]


def test_training_never_touches_the_hidden_splits(
    prepare: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "data", ignore=shutil.ignore_patterns("val", "holdout"))
    monkeypatch.setenv("AUTOHYP_DATA", str(tmp_path / "data"))
    inputs, _, _ = next(prepare.make_dataloader(2, 64))
    assert inputs.shape == (2, 64)
    assert prepare.Tokenizer.from_data().vocab_size == 320
    with pytest.raises(prepare.PrepareError, match=r"val/.* is missing"):
        prepare.make_dataloader(2, 64, "val")


def test_a_truncated_file_is_named(
    prepare: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    monkeypatch.setenv("AUTOHYP_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "train" / "00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(prepare.PrepareError, match=r"train/00000.bin has \d+ bytes instead of"):
        prepare.make_dataloader(2, 64)


@pytest.mark.parametrize("split", ["test", "", "../val"])
def test_unknown_split(prepare: ModuleType, active: Path, split: str) -> None:
    with pytest.raises(prepare.PrepareError, match="choose one of train, val, holdout"):
        prepare.make_dataloader(2, 64, split)
