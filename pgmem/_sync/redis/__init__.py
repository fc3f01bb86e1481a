# Generated from pgmem/redis/ by tools/generate_sync.py. Do not edit.
