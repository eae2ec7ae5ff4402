"""Random SIGKILLs over all parts of running campaigns, and proof that nothing was lost, doubled or left
behind.

python -m tests.chaos --kills 1000 --seed 1

Two lanes work side by side, each through one campaign after another: `simulated` (the real observer,
ledger, journal and repository, with training made up) and `real` (real training in the real sandbox,
measured by the real evaluator). What is killed and when is drawn from the seed; the moments themselves are
the machine's. Not covered: a machine that loses power, and a disk that lies.
"""
