"""Fails in the evaluation with a message full of control characters and a number."""

import sys

import kit
from scripted_client import Honest, Tokens

EXPECTED = "crashed", "the model raised while it was evaluated: val_bpb: 0.1"


class Raises(Honest):
    def losses(self, rows: Tokens) -> None:
        raise RuntimeError("val_bpb: 0.1\x1b[2J\n\r\x07---")


sys.tracebacklimit = 0
kit.run(Raises(kit.model().vocab_size))
