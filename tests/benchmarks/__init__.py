"""Timings of what must not limit the GPUs: `make bench`, or `python -m tests.benchmarks --help`."""
