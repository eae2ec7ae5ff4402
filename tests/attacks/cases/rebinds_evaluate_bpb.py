"""Puts a function of its own in the place of the measurement."""

import kit

import prepare

EXPECTED = "crashed", "ended without asking to be evaluated"

prepare.evaluate_bpb = lambda model, batch: 0.1
kit.train()
kit.summary(prepare.evaluate_bpb(None, 16))
