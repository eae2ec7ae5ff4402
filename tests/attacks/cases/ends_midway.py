"""Ends well in the middle of the evaluation, once the easy rows are over."""

import os

import kit
from scripted_client import Honest, Tokens

EXPECTED = "crashed", "ended during the evaluation"


class Ends(Honest):
    def losses(self, rows: Tokens) -> None:
        os._exit(0)


kit.run(Ends(kit.model().vocab_size))
