# Generated from pgmem/ by tools/generate_sync.py. Do not edit.
