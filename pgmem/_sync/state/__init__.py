# Generated from pgmem/state/ by tools/generate_sync.py. Do not edit.
