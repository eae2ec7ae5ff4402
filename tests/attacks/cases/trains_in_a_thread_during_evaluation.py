"""Asks to be measured while a thread goes on training on the very text that it is asked about."""

import threading
from queue import Queue

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "invalid", "looks ahead|own logits|other predictions|lower than"


class Learner(Honest):
    """Hands every claimed row to the thread, which makes its tokens likelier."""

    def start(self) -> None:
        self._lessons: Queue[Tokens] = Queue()
        threading.Thread(target=self._learn, daemon=True).start()

    def _learn(self) -> None:
        while True:
            np.add.at(self._head, (slice(None), self._lessons.get()[:, 1:].ravel()), 0.02)
            self._lessons.task_done()

    def losses(self, rows: Tokens) -> np.ndarray:
        losses = super().losses(rows)
        self._lessons.put(rows)
        self._lessons.join()
        return losses


model = Learner(kit.model().vocab_size)
model.start()
kit.run(model)
