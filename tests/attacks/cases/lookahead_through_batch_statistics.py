"""Normalises by the batch that it is measured on: rows tell one another what they hold."""

import torch_kit
from torch import Tensor

EXPECTED = "invalid", "looks ahead|own logits|other predictions"


class Normalised(torch_kit.Model):
    def logits(self, inputs: Tensor) -> Tensor:
        logits = super().logits(inputs)
        return logits - logits.mean(dim=(0, 1), keepdim=True) * 2


torch_kit.run(Normalised())
