"""Validation text, and bits per byte over it.

val_bpb = sum of the targets' losses in nats / (ln 2 x sum of the targets' bytes); targets of zero
bytes (special tokens) are left out of both sums. The legacy figure is the same with the older count
of bytes, which takes 3 bytes for each replacement character of a token's decoded text
(autoresearch's measurement).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autohyp.errors import DataError

__all__ = ["MIN_ROWS", "EvaluationData", "Score", "load_evaluation_data"]

MIN_ROWS = 8
"""Fewer rows leave no room for secret checks."""


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """Packed rows uint16 [n_rows, T+1], and each token's bytes int32 [vocab], real and as of old."""

    rows: npt.NDArray[np.uint16]
    token_bytes: npt.NDArray[np.int32]
    token_bytes_legacy: npt.NDArray[np.int32]

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    def sequence_len(self) -> int:
        return int(self.rows.shape[1]) - 1


def load_evaluation_data(data_dir: Path, split: str) -> EvaluationData:
    """Maps the rows of `split` ("val" or "holdout") of a prepared data folder. Raises DataError."""
    rows = _load(data_dir / split / "rows.npy", mapped=True)
    token_bytes = _load(data_dir / "tokenizer" / "token_bytes.npy")
    legacy = _load(data_dir / "tokenizer" / "token_bytes_legacy.npy")
    _check_against_meta(data_dir, rows, token_bytes)
    if rows.ndim != 2 or rows.dtype != np.uint16 or rows.shape[0] < MIN_ROWS or rows.shape[1] < 3:
        raise DataError(
            f"{data_dir / split / 'rows.npy'} must be uint16 with at least {MIN_ROWS} rows: "
            "prepare the data again"
        )
    if token_bytes.shape != legacy.shape or token_bytes.ndim != 1 or int(rows.max()) >= len(token_bytes):
        raise DataError(f"the tokenizer in {data_dir} does not fit its rows: prepare the data again")
    return EvaluationData(rows, token_bytes.astype(np.int32), legacy.astype(np.int32))


def _load(path: Path, mapped: bool = False) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path} ({error}): prepare the data again") from None
    return array


def _check_against_meta(data_dir: Path, rows: npt.NDArray[Any], token_bytes: npt.NDArray[Any]) -> None:
    try:
        meta = json.loads((data_dir / "meta.json").read_text(encoding="utf-8"))
        expected = (int(meta["sequence_len"]) + 1, int(meta["vocab_size"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {data_dir / 'meta.json'} ({error!r}): prepare the data again") from None
    found = (rows.shape[-1] if rows.ndim else 0, len(token_bytes) if token_bytes.ndim else 0)
    if found != expected:
        raise DataError(f"{data_dir} holds (row length, vocabulary) {found}, its meta.json says {expected}")


class Score:
    """Running sums in float64 of nats and bytes."""

    def __init__(self, data: EvaluationData) -> None:
        self._token_bytes = data.token_bytes
        self._token_bytes_legacy = data.token_bytes_legacy
        self._nats = self._bytes = 0.0
        self._legacy_nats = self._legacy_bytes = 0.0
        self.tokens = 0

    def add(self, targets: npt.NDArray[np.integer[Any]], nats: npt.NDArray[np.floating[Any]]) -> None:
        """Adds the losses `nats` of `targets` (same shape)."""
        n_bytes = self._token_bytes[targets]
        legacy_bytes = self._token_bytes_legacy[targets]
        self._nats += float(np.sum(nats, where=n_bytes > 0, dtype=np.float64))
        self._bytes += float(n_bytes.sum(dtype=np.int64))
        self._legacy_nats += float(np.sum(nats, where=legacy_bytes > 0, dtype=np.float64))
        self._legacy_bytes += float(legacy_bytes.sum(dtype=np.int64))
        self.tokens += targets.size

    @property
    def val_bpb(self) -> float:
        return self._nats / (math.log(2) * max(self._bytes, 1.0))

    @property
    def val_bpb_legacy(self) -> float:
        return self._legacy_nats / (math.log(2) * max(self._legacy_bytes, 1.0))
