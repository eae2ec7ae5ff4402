"""Claims more tokens than it was asked about, easy ones, to lower the mean."""

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "wrong shape"


class More(Honest):
    def losses(self, rows: Tokens) -> np.ndarray:
        return np.concatenate([super().losses(rows), np.zeros((1, rows.shape[1] - 1), np.float32)])


kit.run(More(kit.model().vocab_size))
