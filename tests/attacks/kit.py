"""What the cases share: an honest run in pieces, and whatever an attacker could know at best.

Copied beside every train.py, together with the real prepare.py and `autohyp.testing.scripted_client`, whose
models answer the evaluator without torch.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scripted_client import Honest, serve

import prepare

SUCCESS = "THE ATTACK SUCCEEDED"

SCRATCH = Path(os.environ["HOME"])
SOURCE = Path(__file__).parent
DATA = Path(os.environ["AUTOHYP_DATA"])
OUTSIDE = Path(os.environ["ATTACK_OUTSIDE"])  # a folder of the host that the run was not given
TOKEN = os.environ["ATTACK_TOKEN"]  # names what is written to shared places, so that it can be found
BYSTANDER = int(os.environ["ATTACK_BYSTANDER"])  # a process of the same user
LAUNCHER = int(os.environ["ATTACK_LAUNCHER"])
TCP_PORT, UDP_PORT = int(os.environ["ATTACK_TCP"]), int(os.environ["ATTACK_UDP"])
ABSTRACT = "\0" + os.environ["ATTACK_ABSTRACT"]


def model() -> Honest:
    """The model of the honest run."""
    return Honest(prepare.VOCAB_SIZE)


def train(n_steps: int = 3) -> None:
    """As long as an honest run takes: next to nothing."""
    clock = prepare.TrainingClock()
    clock.start()
    for step in range(n_steps):
        clock.report(step, 3.0)


def connection() -> socket.socket:
    """The socket to the evaluator."""
    return socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_FD"])))


def evaluate(answers: Honest | None = None) -> float:
    """Has `answers` measured; leaves with the evaluator's reason if it refuses."""
    with connection() as sock:
        said = serve(sock, answers or model())
    if "reason" in said:
        sys.exit(f"refused: {said['reason']}")
    return float(said["val_bpb"])


def summary(val_bpb: float) -> None:
    """The end of a run's log."""
    print(f"---\nval_bpb:          {val_bpb:.6f}\nnum_steps:        3", flush=True)


def run(answers: Honest | None = None) -> None:
    """The whole honest run."""
    train()
    summary(evaluate(answers))


def attempt(what: str, action: Callable[[], object]) -> None:
    """Tries `action`, which must raise; a false or empty result is no success either."""
    try:
        result = action()
    except Exception as error:  # however it is refused
        print(f"{what}: {type(error).__name__}: {error}")
    else:
        report(what, result)


def report(what: str, result: object = True) -> None:
    """Says that an attack got somewhere, if there is a result."""
    print(f"{SUCCESS}: {what}: {result!r}"[:400] if result else f"{what}: nothing", flush=True)


def other_processes() -> Iterator[Path]:
    """The folders in /proc of all processes but this one."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            yield folder
