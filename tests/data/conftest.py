"""A small corpus, prepared once, and `prepare.py` as a module."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

PREPARE = Path(__file__).parents[2] / "prepare.py"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def prepare() -> ModuleType:
    """The module under test, imported from its file."""
    spec = importlib.util.spec_from_file_location("prepare", PREPARE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("prepare", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of very different lengths over a small vocabulary, accents and digits included."""
    rng = random.Random(seed)
    words = ["alpha", "beta", "naïve", "42", "1234567", "日本", "the", "of", "a\n\nb", "x_y", "é", "🙂"]
    return [" ".join(rng.choices(words, k=rng.choice((3, 9, 30, 120)))) + f" {n}" for n in range(count)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON-lines file of 1,500 documents."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in make_texts(1500)))
    return path


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `prepare.py` in a process of its own: cli(*arguments, env={...}, **of_subprocess_run)."""

    def run(*arguments: str, env: dict[str, str] | None = None, **options: object) -> object:
        base = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "AUTOHYP_PROFILE": "cpu"}
        return subprocess.run(
            [sys.executable, str(PREPARE), *arguments],
            env=base | (env or {}),
            capture_output=True,
            text=True,
            timeout=120,
            **options,  # type: ignore[call-overload]
        )

    return run  # type: ignore[return-value]


@pytest.fixture(scope="session")
def sizes() -> list[str]:
    """Options that make preparing the corpus quick."""
    return ["--vocab-size", "320", "--sequence-len", "64", "--eval-tokens", "1024"]


@pytest.fixture(scope="session")
def prepared(
    prepare: ModuleType, corpus: Path, sizes: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The corpus, prepared; tests that change the folder must copy it."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    code = prepare.main(["--source", "files", "--paths", str(corpus), "--data", str(folder), *sizes])
    assert code == 0
    return folder


@pytest.fixture
def active(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The prepared folder, named by AUTOHYP_DATA."""
    monkeypatch.setenv("AUTOHYP_DATA", str(prepared))
    return prepared
