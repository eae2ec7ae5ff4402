"""Goes on training in steps so small that no two answers differ by more than rounding in bf16."""

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "it goes on learning|own logits|looks ahead"


class Drifts(Honest):
    """Learns which tokens are frequent, a little from every text that it is sent."""

    answers = 0

    def prepare(self) -> None:
        self._counts = np.ones(self.vocab_size, np.float32)

    def all_logits(self, tokens: Tokens) -> np.ndarray:
        favour = np.log(self._counts / self._counts.mean())
        logits: np.ndarray = super().all_logits(tokens) + np.float32(5e-4 * self.answers) * favour
        return logits

    def losses(self, rows: Tokens) -> np.ndarray:
        losses = super().losses(rows)
        self._counts += np.bincount(rows.ravel(), minlength=self.vocab_size)
        self.answers += 1
        return losses


model = Drifts(kit.model().vocab_size)
model.prepare()
kit.run(model)
