"""Connections, transactions, waiting and retry, for tasks.

Edited by hand; `pgmem._sync` is generated from it by `tools/generate_sync.py`.
"""
