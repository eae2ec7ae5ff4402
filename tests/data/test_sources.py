"""Where documents come from, and how bad input is refused."""

from __future__ import annotations

import json
import sys
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    """A folder that looks like a standard library, with what must be left out."""
    root = tmp_path / "lib"
    for name in (
        "a.py",
        "pkg/b.py",
        "site-packages/no.py",
        "dist-packages/no.py",
        "__pycache__/no.py",
        "test/no.py",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    (root / "latin.py").write_bytes(b"# caf\xe9\n")
    (root / "data.txt").write_text("not python")
    return root


def texts(source: Any) -> list[str]:
    return [document.text for document in source.documents()]


@given(st.text(alphabet="ab\n", max_size=400), st.integers(4, 50))
def test_pieces_join_to_the_text_and_fit(prepare: ModuleType, text: str, max_chars: int) -> None:
    pieces = prepare.cut_text(text, max_chars)
    assert "".join(pieces) == text
    assert all(len(piece) <= max_chars for piece in pieces)
    assert all(len(piece) >= max_chars // 4 for piece in pieces[:-1])


def test_cuts_prefer_blank_lines(prepare: ModuleType) -> None:
    assert prepare.cut_text("one\ntwo\n\nthree\nfour", 16) == ["one\ntwo\n\n", "three\nfour"]


def test_neighbouring_pieces_share_a_unit(prepare: ModuleType) -> None:
    pieces = prepare.TextPieces(sequence_len=8, total_chars=100 * 64)
    documents = list(pieces.cut("line of text\n" * 40))
    units = [document.unit for document in documents]
    assert units == sorted(units)
    size_of_unit = {unit: sum(len(d.text) for d in documents if d.unit == unit) for unit in units}
    assert len(size_of_unit) > 3
    assert max(size_of_unit.values()) <= 64 + 16


def test_the_standard_library_without_tests_and_packages(prepare: ModuleType, stdlib: Path) -> None:
    assert sorted(texts(prepare.PystdlibSource(256, stdlib))) == ["# a.py\n", "# pkg/b.py\n"]


def test_the_standard_library_is_found_from_within_a_venv(prepare: ModuleType, tmp_path: Path) -> None:
    import subprocess

    venv.create(tmp_path / "env", with_pip=False)
    code = "import sysconfig; print(sysconfig.get_paths()['stdlib'])"
    found = subprocess.run(
        [tmp_path / "env/bin/python", "-c", code], capture_output=True, text=True, check=True
    )
    assert any(
        path.name == "abc.py" for path in prepare.PystdlibSource(256, Path(found.stdout.strip())).paths()
    )
    assert any(path.name == "abc.py" for path in prepare.PystdlibSource(256).paths())
    assert sys.base_prefix != str(tmp_path / "env")


def test_files_of_all_kinds(prepare: ModuleType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["from parquet", None, ""]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"body": "from json"}\n\n{"body": null}\n{"body": "\\ud800"}\n')
    (tmp_path / "c.txt").write_text("from text")
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe\x00")
    source = prepare.FilesSource([str(tmp_path), str(tmp_path / "*.txt")], "body", 64)
    assert texts(source) == ["from parquet", "from json", "?", "from text"]
    assert texts(source) == texts(source)


def write_truncated_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": [str(n) for n in range(5000)]}), path)
    path.write_bytes(path.read_bytes()[:-100])


BAD_FILES = {
    "empty.txt": (lambda path: path.write_text(""), "holds no text"),
    "binary.txt": (lambda path: path.write_bytes(b"\xff\x00"), "holds no text"),
    "small.txt": (lambda path: path.write_text("just one line"), "add text"),
    "truncated.parquet": (write_truncated_parquet, "damaged or not parquet"),
    "not.parquet": (lambda path: path.write_text("hello"), "damaged or not parquet"),
    "column.parquet": (
        lambda path: pq.write_table(pa.table({"body": ["x"]}), path),
        "no column 'text' but body",
    ),
    "numbers.parquet": (lambda path: pq.write_table(pa.table({"text": [1]}), path), "int64, not text"),
    "broken.jsonl": (
        lambda path: path.write_text('{"text": "a"}\n{"te'),
        "broken.jsonl:2 is not a JSON object",
    ),
    "field.jsonl": (lambda path: path.write_text('{"body": "a"}\n'), "no field 'text'"),
    "list.jsonl": (lambda path: path.write_text("[1]\n"), "not a JSON object"),
    "number.jsonl": (lambda path: path.write_text('{"text": 5}\n'), "not text"),
    "repeats.jsonl": (
        lambda path: path.write_text('{"text": "same words"}\n' * 2000),
        "too small or too repetitive",
    ),
    "poor.jsonl": (
        lambda path: path.write_text("".join(json.dumps({"text": f"{n}"}) + "\n" for n in range(200))),
        "smaller --vocab-size",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_is_one_line_and_leaves_nothing(
    prepare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write, expected = BAD_FILES[name]
    write(tmp_path / name)
    data = tmp_path / "out" / "data"
    code = prepare.main(["--source", "files", "--paths", str(tmp_path / name), "--data", str(data), "--json"])
    printed = capsys.readouterr()
    complaints = [line for line in printed.err.splitlines() if line.startswith("prepare: ")]
    assert code == 3
    assert printed.out == ""
    assert len(complaints) == 1
    assert expected in complaints[0]
    assert printed.err.rstrip().endswith(complaints[0])
    assert [path.name for path in data.parent.iterdir()] == [".data.lock"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "files"], "needs --paths"),
        (["--source", "files", "--paths", "nothing/here/*.txt"], "names no file"),
        (["--source", "climbmix", "--shards", "0"], "choose 1 to 6541"),
        (["--source", "pystdlib", "--paths", "x"], "does not go with"),
        (["--vocab-size", "100"], "--vocab-size 100: choose 261 to 65536"),
        (["--sequence-len", "2"], "--sequence-len 2: choose"),
        (["--eval-tokens", "10"], "--eval-tokens 10: choose"),
        (["--source", "nowhere"], "invalid choice"),
        (["--bogus"], "unrecognized"),
    ],
)
def test_bad_arguments(
    prepare: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    expected: str,
) -> None:
    assert prepare.main(["--profile", "cpu", "--data", str(tmp_path / "data"), *arguments]) == 3
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("prepare: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()
