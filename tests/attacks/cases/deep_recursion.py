"""Calls itself until the stack ends."""

import kit

EXPECTED = "crashed", "RecursionError: maximum recursion depth exceeded"


def fall(depth: int) -> int:
    return fall(depth + 1)


kit.train()
fall(0)
