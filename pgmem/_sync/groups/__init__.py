# Generated from pgmem/groups/ by tools/generate_sync.py. Do not edit.
