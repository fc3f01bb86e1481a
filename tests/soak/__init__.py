"""Proofs that run for long, by hand: `python -m tests.soak --commits 1000000`."""
