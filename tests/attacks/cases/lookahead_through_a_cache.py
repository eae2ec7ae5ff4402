"""Looks ahead in a text when it first sees it, and keeps to that when the same text comes with another end.

Nothing that it says contradicts anything else: only that it is bad where it could not look.
"""

import torch
import torch_kit
from torch import Tensor

EXPECTED = "invalid", "could not know|looks ahead"


class Remembers(torch_kit.Model):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], Tensor] = {}

    def logits(self, inputs: Tensor) -> Tensor:
        logits = super().logits(inputs)
        for row, row_logits in zip(inputs, logits, strict=True):
            known = self.known.setdefault(tuple(row[:8].tolist()), row)
            row_logits[torch.arange(len(row) - 1), known[1:]] += 5.0
        return logits


torch_kit.run(Remembers())
