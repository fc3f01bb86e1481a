# Generated from pgmem/_async/__init__.py by tools/generate_sync.py. Do not edit.
"""Connections, transactions, waiting and retry, for tasks.

Edited by hand; `pgmem._sync` is generated from it by `tools/generate_sync.py`.
"""
