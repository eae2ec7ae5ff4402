"""Kernels are made once, by nobody who saw data, and lent as copies."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autohyp.errors import SandboxError
from autohyp.execution import kernels as kernels_module
from autohyp.execution.kernels import KernelShelf, write_blank_data

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "c" * 40


def never() -> bool:
    return False


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What a compilation left, and much that it should not have."""
    cache = tmp_path / "made"
    (cache / "inductor" / "ab").mkdir(parents=True)
    (cache / "inductor" / "ab" / "graph.py").write_text("kernel")
    (cache / "triton").mkdir()
    (cache / "triton" / "kernel.cubin").write_bytes(b"\x7fELF")
    (cache / "link").symlink_to("/etc/passwd")
    (cache / "folder").symlink_to("/etc")
    os.mkfifo(cache / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cache / "socket"))
    return cache


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_they_are_made_once_and_every_run_gets_its_own_copy(tmp_path: Path, made: Path) -> None:
    calls: list[Path] = []

    def compile_kernels() -> Path:
        calls.append(made)
        return made

    shelf = KernelShelf(tmp_path / "shelf")
    assert shelf.lend(COMMIT, tmp_path / "one", compile_kernels, never) == 2
    (tmp_path / "one" / "inductor" / "ab" / "graph.py").write_text("something else")
    (tmp_path / "one" / "left.bin").write_bytes(b"weights")
    assert KernelShelf(tmp_path / "shelf").lend(COMMIT, tmp_path / "two", compile_kernels, never) == 2
    assert len(calls) == 1
    assert files(tmp_path / "two") == ["inductor/ab/graph.py", "triton/kernel.cubin"]
    assert (tmp_path / "two" / "inductor" / "ab" / "graph.py").read_text() == "kernel"


def _fails() -> Path:
    raise SandboxError("no room")


@pytest.mark.parametrize("compile_kernels", [lambda: None, _fails, lambda: Path("nowhere")])
def test_kernels_that_cannot_be_made_are_not_tried_again(
    tmp_path: Path, compile_kernels: Callable[[], Path | None]
) -> None:
    calls: list[int] = []

    def counted() -> Path | None:
        calls.append(1)
        return compile_kernels()

    shelf = KernelShelf(tmp_path)
    assert [shelf.lend(COMMIT, tmp_path / "run", counted, never) for _ in range(2)] == [0, 0]
    assert len(calls) == 1


def test_whoever_comes_meanwhile_waits_for_the_first(tmp_path: Path, made: Path) -> None:
    began, go_on = threading.Event(), threading.Event()
    counts: list[int] = []

    def compile_kernels() -> Path:
        began.set()
        assert go_on.wait(60)
        return made

    def lend(name: str) -> None:
        counts.append(KernelShelf(tmp_path / "shelf").lend(COMMIT, tmp_path / name, compile_kernels, never))

    first = threading.Thread(target=lend, args=["one"])
    first.start()
    assert began.wait(60)
    began.clear()
    second = threading.Thread(target=lend, args=["two"])
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert counts == [2, 2]
    assert not began.is_set()


def test_a_worker_that_died_while_it_compiled_holds_up_nobody(tmp_path: Path, made: Path) -> None:
    shelf = tmp_path / "shelf"
    code = (
        "import os, sys; from pathlib import Path; from autohyp.execution.kernels import KernelShelf;"
        "KernelShelf(Path(sys.argv[1])).lend(sys.argv[2], Path('x'), lambda: os._exit(3), lambda: False)"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(shelf), COMMIT], cwd=tmp_path, check=False)
    assert dead.returncode == 3
    assert KernelShelf(shelf).lend(COMMIT, tmp_path / "run", lambda: made, never) == 2


def test_a_run_that_is_given_up_waits_no_longer_and_leaves_the_work_to_others(
    tmp_path: Path, made: Path
) -> None:
    shelf = KernelShelf(tmp_path / "shelf")
    assert shelf.lend(COMMIT, tmp_path / "one", lambda: made, lambda: True) == 0
    answers = iter([False, True])
    assert shelf.lend(COMMIT, tmp_path / "two", lambda: None, lambda: next(answers)) == 0
    assert shelf.lend(COMMIT, tmp_path / "three", lambda: made, never) == 2


def test_old_kernels_make_room(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "KEPT_SHELVES", 2)
    shelf, folder = KernelShelf(tmp_path / "shelf"), tmp_path / "shelf"
    for age, commit in enumerate("abc"):
        shelf.lend(commit, tmp_path / commit, lambda: made, never)
        os.utime(folder / commit, (age, age))
    shelf.lend("a", tmp_path / "again", lambda: made, never)
    shelf.lend("d", tmp_path / "d", lambda: made, never)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["a", "d"]


@contextmanager
def _imported(path: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("prepare_of_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_blank_data_has_the_shapes_of_the_real_and_says_nothing(tmp_path: Path) -> None:
    data, blank = tmp_path / "data", tmp_path / "blank"
    command = [sys.executable, str(ROOT / "prepare.py"), "--source", "files", "--paths", str(ROOT / "*.py")]
    sizes = ["--vocab-size", "300", "--sequence-len", "32", "--eval-tokens", "1024"]
    subprocess.run([*command, *sizes, "--profile", "cpu", "--data", str(data)], check=True, timeout=120)
    write_blank_data(data, blank)
    with _imported(ROOT / "prepare.py") as prepare:
        real, nothing = prepare.PreparedData(data), prepare.PreparedData(blank)
        nothing.check_sizes()
        for split in ("train", "val", "holdout"):
            for there, here in zip(real.token_files(split), nothing.token_files(split), strict=True):
                assert here.tokens.shape == there.tokens.shape
                assert there.tokens.any()
                assert not here.tokens.any()
                np.testing.assert_array_equal(here.offsets, there.offsets)
        assert nothing.rows("val").shape == real.rows("val").shape
        assert not nothing.rows("val").any()
    assert files(blank) == files(data)
