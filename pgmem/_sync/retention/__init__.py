# Generated from pgmem/retention/ by tools/generate_sync.py. Do not edit.
