"""A data folder is complete or absent, and says when it was changed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_layout_and_meta(prepare: ModuleType, prepared: Path) -> None:
    files = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*") if path.is_file()}
    splits = {
        f"{split}/00000{suffix}" for split in ("train", "val", "holdout") for suffix in (".bin", ".idx.npy")
    }
    tokenizer = {"ranks.tiktoken", "tokenizer.json", "token_bytes.npy", "token_bytes_legacy.npy"}
    assert files == splits | {"meta.json", "val/rows.npy", "holdout/rows.npy"} | {
        f"tokenizer/{n}" for n in tokenizer
    }
    meta = json.loads((prepared / "meta.json").read_text())
    assert meta["format"] == 1
    assert (meta["vocab_size"], meta["sequence_len"], meta["eval_tokens"]) == (320, 64, 1024)
    recorded = {record["name"] for record in prepare._all_records(meta)}
    assert recorded == files - {"meta.json"}
    assert not [path for path in prepared.parent.iterdir() if path.name not in {"prepared", ".prepared.lock"}]


def test_the_last_line_is_json_and_the_second_time_is_free(
    cli: Any, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    arguments = ["--source", "files", "--paths", str(corpus), "--data", "data", "--json", *sizes]
    first = cli(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = snapshot(tmp_path / "data")
    second = cli(*arguments, cwd=tmp_path)
    report = json.loads(second.stdout)
    assert report == json.loads(first.stdout.splitlines()[-1])
    assert set(report) == {"data_dir", "data_sha256", "profile", "documents", "train_tokens"}
    assert report["data_dir"] == str(tmp_path / "data")
    assert snapshot(tmp_path / "data") == before
    assert "prepared already" in second.stderr


def test_the_same_request_gives_the_same_data(
    prepare: ModuleType, prepared: Path, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    arguments = ["--paths", str(corpus), "--data", str(tmp_path / "again"), *sizes]
    assert prepare.main(arguments) == 0
    sha256 = [prepare.PreparedData(folder).meta["data_sha256"] for folder in (prepared, tmp_path / "again")]
    assert sha256[0] == sha256[1]


def test_prepared_data_may_be_read_only(
    prepare: ModuleType, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    """As on the nodes of a cluster: no lock, no folder is written where nothing is to do."""
    arguments = ["--paths", str(corpus), "--data", str(tmp_path / "data"), *sizes]
    assert prepare.main(arguments) == 0
    (tmp_path / ".data.lock").unlink()
    before = snapshot(tmp_path)
    assert prepare.main(arguments) == 0
    assert snapshot(tmp_path) == before


def test_another_request_replaces_the_folder(
    prepare: ModuleType, prepared: Path, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    arguments = ["--paths", str(corpus), "--data", str(tmp_path / "data"), *sizes, "--vocab-size", "300"]
    assert prepare.main(arguments) == 0
    data = prepare.PreparedData(tmp_path / "data")
    data.check()
    assert data.meta["vocab_size"] == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "data"]


def test_a_failed_build_leaves_the_old_folder(
    prepare: ModuleType, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    (tmp_path / "short.txt").write_text("short")
    arguments = ["--paths", str(tmp_path / "short.txt"), "--data", str(tmp_path / "data")]
    assert prepare.main(arguments) == 3
    prepare.PreparedData(tmp_path / "data").check()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "data", "short.txt"]


def test_a_foreign_folder_is_refused(
    prepare: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert prepare.main(["--paths", str(corpus), "--data", str(tmp_path)]) == 3
    assert "is no data folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_no_space(cli: Any, corpus: Path, sizes: list[str], tmp_path: Path) -> None:
    """A file-size limit is what a full disk looks like to a writer."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments = ["--paths", str(corpus), "--data", str(tmp_path / "data"), *sizes]
    result = cli(*arguments, preexec_fn=limit)
    assert result.returncode == 3
    assert "no space left" in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]


def test_a_missing_library(
    prepare: ModuleType,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    assert prepare.main(["--paths", str(corpus), "--data", str(tmp_path / "data")]) == 3
    assert "install autohyp" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "data").exists()


def test_what_an_interrupted_build_left_is_cleared(
    prepare: ModuleType, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    (tmp_path / ".data.building" / "train").mkdir(parents=True)
    assert prepare.main(["--paths", str(corpus), "--data", str(tmp_path / "data"), *sizes]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "data"]


def test_two_at_once_build_once(
    cli: Any, prepare: ModuleType, corpus: Path, sizes: list[str], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        prepare.__file__,
        "--paths",
        str(corpus),
        "--data",
        str(tmp_path / "data"),
        *sizes,
    ]
    environment = os.environ | {"AUTOHYP_PROFILE": "cpu"}
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    notes = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("training a tokenizer" in text for text in notes) == 1
    assert sum("prepared already" in text for text in notes) == 1


@pytest.mark.parametrize(
    "name", ["train/00000.bin", "val/rows.npy", "tokenizer/token_bytes.npy", "holdout/00000.idx.npy"]
)
def test_check_names_the_changed_file(
    prepare: ModuleType, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    assert prepare.main(["--check", "--data", str(data)]) == 0
    content = bytearray((data / name).read_bytes())
    content[-1] ^= 1
    (data / name).write_bytes(content)
    assert prepare.main(["--check", "--data", str(data)]) == 3
    assert f"{name} has changed" in capsys.readouterr().err
    (data / name).unlink()
    assert prepare.main(["--check", "--data", str(data)]) == 3
    assert f"{name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no prepared data"),
        ("{", "cannot be read"),
        ("[]", "not of format 1"),
        ('{"format": 9}', "not of format 1"),
    ],
)
def test_a_bad_meta_is_explained(
    prepare: ModuleType, tmp_path: Path, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    with pytest.raises(prepare.PrepareError, match=expected):
        prepare.PreparedData(tmp_path)


def test_the_real_standard_library(prepare: ModuleType, tmp_path: Path) -> None:
    """The embedded default, whole, with a vocabulary that is quick to train."""
    arguments = [
        "--source",
        "pystdlib",
        "--profile",
        "cpu",
        "--vocab-size",
        "300",
        "--data",
        str(tmp_path / "data"),
    ]
    assert prepare.main(arguments) == 0
    data = prepare.PreparedData(tmp_path / "data")
    data.check()
    assert data.rows("val").shape == (128, 257)
    assert data.meta["splits"]["train"]["tokens"] > 1_000_000


# --- settings at import ---------------------------------------------------------------------------


def settings_of(cli: Any, prepare: ModuleType, env: dict[str, str]) -> Any:
    code = (
        "import sys, prepare as p; assert 'torch' not in sys.modules;"
        "print([p.PROFILE, p.MAX_SEQ_LEN, p.TIME_BUDGET, p.EVAL_TOKENS, p.VOCAB_SIZE, p.SEED])"
    )
    folder = Path(prepare.__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": "/bin", "HOME": "/x"} | env,
        capture_output=True,
        text=True,
    )
    return result.stdout.strip() or result.stderr


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"AUTOHYP_PROFILE": "gpu"}, ["gpu", 2048, 300.0, 40 * 524288, 8192, 42]),
        ({"AUTOHYP_PROFILE": "cpu"}, ["cpu", 256, 30.0, 128 * 256, 2048, 42]),
        (
            {"AUTOHYP_PROFILE": "cpu", "AUTOHYP_BUDGET_S": "2.5", "AUTOHYP_SEED": "7"},
            ["cpu", 256, 2.5, 32768, 2048, 7],
        ),
    ],
)
def test_settings(cli: Any, prepare: ModuleType, env: dict[str, str], expected: list[Any]) -> None:
    assert settings_of(cli, prepare, env) == str(expected)


def test_settings_follow_the_prepared_data(cli: Any, prepare: ModuleType, prepared: Path) -> None:
    env = {"AUTOHYP_PROFILE": "gpu", "AUTOHYP_DATA": str(prepared)}
    assert settings_of(cli, prepare, env) == str(["gpu", 64, 300.0, 1024, 320, 42])


@pytest.mark.parametrize(
    "env",
    [
        {"AUTOHYP_PROFILE": "tpu"},
        {"AUTOHYP_BUDGET_S": "soon"},
        {"AUTOHYP_BUDGET_S": "-1"},
        {"AUTOHYP_SEED": "nan"},
    ],
)
def test_bad_settings_are_one_line(cli: Any, env: dict[str, str]) -> None:
    result = cli("--check", env=env)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert next(iter(env)) in result.stderr


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_a_complaint_is_one_line(prepare: ModuleType, message: str) -> None:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        assert prepare._fail(message) == 3
    assert len(printed.getvalue().splitlines()) == 1
