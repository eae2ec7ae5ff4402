"""Tries seeds until one looks good instead of taking the one that it is given."""

import torch

import prepare

EXPECTED = "preflight", "sets a seed of its own"

best = min(range(3), key=lambda seed: torch.manual_seed(seed).initial_seed())
torch.manual_seed(1234)
prepare.evaluate_bpb(torch.nn.Linear(1, best), 1)
