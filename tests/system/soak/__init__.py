"""Proofs that run for long, by hand: `python -m tests.system.soak --commits 1000000`."""
