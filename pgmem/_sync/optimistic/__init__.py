# Generated from pgmem/optimistic/ by tools/generate_sync.py. Do not edit.
