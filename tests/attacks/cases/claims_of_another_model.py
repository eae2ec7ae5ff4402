"""Answers claims with one model and probes with another."""

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "own logits|looks ahead|lower than"


class TwoModels(Honest):
    def losses(self, rows: Tokens) -> np.ndarray:
        return Honest(self.vocab_size, scale=0.5).losses(rows)


kit.run(TwoModels(kit.model().vocab_size))
