"""Small data and small runs for tests of the evaluator and the launcher: numpy only, milliseconds each."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from autohyp.execution.evaluation import EvaluationData, EvaluationResult, serve_evaluation
from autohyp.execution.job import OutcomeStatus, TrainingJob, TrainingOutcome
from autohyp.execution.protocol import FrameChannel
from autohyp.testing import scripted_client

__all__ = [
    "evaluate_model",
    "evaluate_script",
    "make_outcome",
    "tiny_data",
    "write_scripted_source",
    "write_tiny_data",
]


def make_outcome(job: TrainingJob, val_bpb: float) -> TrainingOutcome:
    """What the launcher tells of a job that used its budget, or was cancelled."""
    cancelled = job.cancelled()
    return TrainingOutcome(
        run_id=job.run_id,
        status=OutcomeStatus.CANCELLED if cancelled else OutcomeStatus.COMPLETED,
        reason="",
        val_bpb=None if cancelled else val_bpb,
        val_bpb_legacy=None,
        budget_s=job.budget_s,
        charged_s=job.budget_s,
        startup_s=0.0,
        evaluation_s=0.0,
        total_s=job.budget_s,
        num_steps=1,
        peak_memory_mb=1.0,
        summary={},
        curve=(),
        integrity={},
        sandbox="none",
        log_tail="",
    )


def tiny_data(
    n_rows: int = 48, sequence_len: int = 32, vocab_size: int = 61, seed: int = 0
) -> EvaluationData:
    """Random rows; token 0 has no bytes, and the older count of bytes differs."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, vocab_size, (n_rows, sequence_len + 1)).astype(np.uint16)
    token_bytes = draw.integers(1, 8, vocab_size).astype(np.int32)
    token_bytes[0] = 0
    legacy = token_bytes + draw.integers(0, 3, vocab_size).astype(np.int32)
    legacy[0] = 0
    return EvaluationData(rows, token_bytes, legacy)


def write_tiny_data(data_dir: Path, data: EvaluationData | None = None) -> EvaluationData:
    """Writes `data` as the parts of a prepared folder that evaluator and launcher read."""
    data = data or tiny_data()
    for folder in ("tokenizer", "train", "val", "holdout"):
        (data_dir / folder).mkdir(parents=True, exist_ok=True)
    np.save(data_dir / "tokenizer" / "token_bytes.npy", data.token_bytes)
    np.save(data_dir / "tokenizer" / "token_bytes_legacy.npy", data.token_bytes_legacy)
    np.save(data_dir / "val" / "rows.npy", data.rows)
    np.save(data_dir / "holdout" / "rows.npy", data.rows[::-1])
    meta = {"format": 1, "sequence_len": data.sequence_len, "vocab_size": data.vocab_size}
    (data_dir / "meta.json").write_text(json.dumps(meta))
    return data


def write_scripted_source(
    source_dir: Path, vocab_size: int, behaviour: str = "trains", answers: str = "honest"
) -> None:
    """Writes a train.py that does one of `BEHAVIOURS` and answers with one of `ANSWERERS`."""
    source = Path(scripted_client.__file__).read_text(encoding="utf-8")
    for name, value in (("BEHAVIOUR", behaviour), ("ANSWERS", answers)):
        source = source.replace(f"\n{name} = ", f"\n{name} = {value!r}  # was ", 1)
    source = source.replace('int(os.environ["SCRIPTED_VOCAB_SIZE"])', str(vocab_size))
    source_dir.mkdir(parents=True, exist_ok=True)
    (source_dir / "train.py").write_text(source, encoding="utf-8")
    (source_dir / "prepare.py").write_text("")


def evaluate_script(
    script: Callable[[socket.socket], object], data: EvaluationData, seed: int = 1, timeout_s: float = 20
) -> EvaluationResult:
    """Evaluates what `script` answers from a thread at the other end of a socket."""

    def run() -> None:
        # The evaluator hangs up on a dishonest one, and a model may raise.
        with theirs, suppress(OSError, RuntimeError):
            script(theirs)

    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=run)
    with ours:
        thread.start()
        result = serve_evaluation(FrameChannel(ours), data, timeout_s, np.random.default_rng(seed))
    thread.join()
    return result


def evaluate_model(
    model: scripted_client.Honest,
    data: EvaluationData,
    batch: int = 4,
    seed: int = 1,
    device: str = "cpu",
) -> EvaluationResult:
    """Evaluates a model of `scripted_client`."""
    return evaluate_script(lambda sock: scripted_client.serve(sock, model, batch, device), data, seed)
