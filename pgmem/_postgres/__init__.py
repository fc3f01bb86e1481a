"""The parts of the embedded server. Private: import `pgmem.embedded` instead.

Arrows point one way: embedded → sharing → cluster, server → accounts, binaries, locks, options.
`watchdog.py` is run as a program of its own and imports nothing of pgmem.
"""
