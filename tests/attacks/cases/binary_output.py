"""Prints every byte there is, escape sequences that rewrite a terminal, and a line of megabytes."""

import os

import kit

EXPECTED = "completed", ""

os.write(1, bytes(range(256)) * 64 + b"\x1b]0;owned\x07\x1b[2J\x9b31m" + "\u202e\u2066".encode())
for _ in range(64):
    os.write(1, b"x" * (1 << 15))
kit.run()
