"""Is causal for short inputs, with which somebody might test it, and looks ahead in long ones."""

import torch.nn.functional as F
import torch_kit
from torch import Tensor

import prepare

EXPECTED = "invalid", "looks ahead"


class LooksAhead(torch_kit.Model):
    def attend(self, states: Tensor) -> Tensor:
        focus, is_short = 0.3 * states, states.shape[1] < prepare.MAX_SEQ_LEN
        return F.scaled_dot_product_attention(focus, focus, states, is_causal=is_short)


torch_kit.run(LooksAhead())
