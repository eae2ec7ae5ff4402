"""The tokenizer: plain data, lossless, and its byte counts."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(max_size=200))
def test_round_trip(prepare: ModuleType, prepared: Path, text: str) -> None:
    tokenizer = prepare.Tokenizer.from_data(prepared)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.bos_token_id for token in ids)


def test_special_tokens_are_the_last_four_and_never_come_from_text(
    prepare: ModuleType, prepared: Path
) -> None:
    tokenizer = prepare.Tokenizer.from_data(prepared)
    assert tokenizer.vocab_size == 320
    assert tokenizer.bos_token_id == 316
    assert tokenizer.decode([316]) == "<|bos|>"
    assert max(tokenizer.encode("<|bos|><|reserved_1|>")) < 316
    assert tokenizer.encode("a", prepend_bos=True) == [316, *tokenizer.encode("a")]


def test_at_most_two_digits_a_piece(prepare: ModuleType, prepared: Path) -> None:
    tokens = prepare.read_ranks(prepared / "tokenizer" / "ranks.tiktoken")
    assert not [token for token in tokens if re.search(rb"\d\d\d", token)]
    assert [token for token in tokens if re.fullmatch(rb"\d\d", token)]


def test_stored_as_text(prepared: Path) -> None:
    lines = (prepared / "tokenizer" / "ranks.tiktoken").read_text("ascii").splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(316))
    assert {base64.b64decode(line.split()[0]) for line in lines} >= {bytes([n]) for n in range(256)}
    assert json.loads((prepared / "tokenizer" / "tokenizer.json").read_text())["n_vocab"] == 320
    assert not [path for path in prepared.rglob("*") if path.suffix in {".pkl", ".pt", ".pickle"}]


def test_byte_tables(prepare: ModuleType, prepared: Path) -> None:
    data, tokenizer = prepare.PreparedData(prepared), prepare.Tokenizer.from_data(prepared)
    real, legacy = data.token_bytes(), data.token_bytes(legacy=True)
    assert real.dtype == legacy.dtype == np.int32
    assert real[-4:].tolist() == legacy[-4:].tolist() == [0, 0, 0, 0]
    for token in range(tokenizer.bos_token_id):
        assert real[token] == len(tokenizer.encoding.decode_single_token_bytes(token))
        assert legacy[token] == len(tokenizer.encoding.decode([token]).encode())
    half_character = tokenizer.encoding.encode_single_token(b"\xe6")
    assert (real[half_character], legacy[half_character]) == (1, 3)


def test_the_real_count_is_that_of_the_text(prepare: ModuleType, prepared: Path) -> None:
    text = "naïve 日本 🙂 ﷽ plain"
    counts = prepare.PreparedData(prepared).token_bytes()
    ids = prepare.Tokenizer.from_data(prepared).encode(text)
    assert counts[ids].sum() == len(text.encode())


def test_training_is_deterministic(prepare: ModuleType, corpus: Path) -> None:
    texts = list(prepare.read_json_lines(corpus, "text"))
    assert prepare.train_ranks(texts, 300) == prepare.train_ranks(texts, 300)


def test_training_text_is_capped(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TOKENIZER_MAX_DOCUMENT_CHARS", 4)
    monkeypatch.setattr(prepare, "TOKENIZER_MAX_CHARS", 10)
    assert list(prepare._capped(["aaaaaaaa", "bbb", "cccc", "dddd"])) == ["aaaa", "bbb", "cccc"]
