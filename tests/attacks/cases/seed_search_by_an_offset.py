"""Searches seeds from experiment to experiment by adding a number to the one that it is given."""

import torch

import prepare

EXPECTED = "preflight", "sets a seed of its own"

torch.manual_seed(prepare.SEED + 7)
prepare.evaluate_bpb(torch.nn.Linear(1, 1), 1)
