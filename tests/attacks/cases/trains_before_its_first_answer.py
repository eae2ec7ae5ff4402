"""Stops its clock by asking to be evaluated, and trains before it answers."""

import time

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "it trained for"
SETTINGS = {"budget_s": 0.2}
PATCHES = {"autohyp.execution.trainer.MIN_STALL_ALLOWANCE_S": 0.1}


class Late(Honest):
    """Answers its first question late."""

    def logits(self, tokens: Tokens, positions: np.ndarray) -> np.ndarray:
        time.sleep(self.delay_s)
        self.delay_s = 0.0
        return super().logits(tokens, positions)


model = Late(kit.model().vocab_size)
model.delay_s = 3.0
kit.run(model)
