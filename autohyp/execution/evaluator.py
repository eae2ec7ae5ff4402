"""The evaluator: a process of its own, outside the sandbox, that owns the validation text.

    python -m autohyp.execution.evaluator --fd N --data DIR --split val --timeout-s X

It is started with the run, so that it is ready long before it is needed; `--fd` is its end of the
socket whose other end the training process inherits. It writes JSON lines to standard output:
`{"event": "evaluation_started", "monotonic_s": ...}` when the training process asks to be
evaluated, and last `{"event": "result", "status": "ok|invalid|failed", ...}` (the fields of
`EvaluationResult`). Standard input is held open by the launcher: when it closes, the evaluator
ends, so it cannot outlive the launcher. Exit code 0 if a result was written, whatever it says.

What is asked is drawn from `os.urandom`; `--seed` replaces that in tests only.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from autohyp.errors import AutohypError
from autohyp.execution.evaluation import load_evaluation_data, serve_evaluation
from autohyp.execution.protocol import FrameChannel

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one evaluation and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        data = load_evaluation_data(options.data, options.split)
    except AutohypError as error:
        print(f"evaluator: {error}", file=sys.stderr)
        return error.exit_code
    entropy = int.from_bytes(os.urandom(32), "little") if options.seed is None else options.seed
    with socket.socket(fileno=options.fd) as sock:
        result = serve_evaluation(
            FrameChannel(sock, owner_fd=sys.stdin.fileno()),
            data,
            options.timeout_s,
            np.random.default_rng(entropy),
            on_started=lambda monotonic_s: _emit(event="evaluation_started", monotonic_s=monotonic_s),
        )
        _emit(event="result", **asdict(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autohyp.execution.evaluator", description="Measures one training process."
    )
    parser.add_argument("--fd", type=int, required=True, help="the connected socket")
    parser.add_argument("--data", type=Path, required=True, help="a prepared data folder")
    parser.add_argument("--split", choices=("val", "holdout"), default="val")
    parser.add_argument("--timeout-s", type=float, required=True, help="seconds an evaluation may take")
    parser.add_argument("--seed", type=int, help="tests only: what is asked becomes predictable")
    return parser


def _emit(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
