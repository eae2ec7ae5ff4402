"""Hangs up in the middle of the evaluation, but lives on."""

import signal

import kit
import numpy as np
from scripted_client import Honest, Tokens

EXPECTED = "crashed", "closed the connection during the evaluation"


class HangsUp(Honest):
    def losses(self, rows: Tokens) -> np.ndarray:
        import os
        import socket

        with socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_FD"]))) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        signal.pause()
        raise AssertionError


kit.run(HangsUp(kit.model().vocab_size))
