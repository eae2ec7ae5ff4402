"""Asks to be measured while a child goes on training the weights that they share."""

import mmap
import os

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "looks ahead|own logits|other predictions|lower than"


class Shared(Honest):
    """Its head lies in shared memory; a child takes a step for every claim."""

    def share(self) -> None:
        shared = np.frombuffer(mmap.mmap(-1, self._head.nbytes), np.float32).reshape(self._head.shape)
        shared[:] = self._head
        self._head = shared
        (orders, self._order), (self._done, done) = os.pipe(), os.pipe()
        if os.fork() == 0:
            while os.read(orders, 1):
                shared *= 0.9
                os.write(done, b"!")

    def losses(self, rows: Tokens) -> np.ndarray:
        losses = super().losses(rows)
        os.write(self._order, b"!")
        os.read(self._done, 1)
        return losses


model = Shared(kit.model().vocab_size)
model.share()
kit.run(model)
