# Generated from pgmem/core/ by tools/generate_sync.py. Do not edit.
