"""A small attention model for the cases that only a real model can be: copied beside every train.py."""

from __future__ import annotations

import kit
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prepare

WIDTH = 32


class Model(nn.Module):
    """Honest as it stands. Untrained, but what it attends to decides what it predicts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(prepare.SEED)
        self.embedding = nn.Embedding(prepare.VOCAB_SIZE, WIDTH)
        self.head = nn.Linear(WIDTH, prepare.VOCAB_SIZE, bias=False)

    def attend(self, states: Tensor) -> Tensor:
        """What each position [n, T, WIDTH] learns from those up to itself."""
        focus = 0.3 * states
        return F.scaled_dot_product_attention(focus, focus, states, is_causal=True)

    def logits(self, inputs: Tensor) -> Tensor:
        states: Tensor = self.embedding(inputs)
        logits: Tensor = self.head(states + 4 * self.attend(states))
        return logits

    def forward(self, inputs: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        logits = self.logits(inputs)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def run(model: Model) -> None:
    """Trains not at all, and has the model measured by the real prepare."""
    torch.set_num_threads(1)
    kit.train()
    kit.summary(prepare.evaluate_bpb(model, 16))
