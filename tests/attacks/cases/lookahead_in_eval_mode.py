"""Trains causally, and looks ahead only once it is in evaluation mode."""

import torch.nn.functional as F
import torch_kit
from torch import Tensor

EXPECTED = "invalid", "looks ahead"


class LooksAhead(torch_kit.Model):
    def attend(self, states: Tensor) -> Tensor:
        focus = 0.3 * states
        return F.scaled_dot_product_attention(focus, focus, states, is_causal=self.training)


torch_kit.run(LooksAhead())
