"""Carrying out one run: the workspace, the sandbox, the training process and its evaluator."""
