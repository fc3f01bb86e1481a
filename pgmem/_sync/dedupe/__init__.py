# Generated from pgmem/dedupe/ by tools/generate_sync.py. Do not edit.
