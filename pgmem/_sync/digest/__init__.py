# Generated from pgmem/digest/ by tools/generate_sync.py. Do not edit.
