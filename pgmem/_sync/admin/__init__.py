# Generated from pgmem/admin/ by tools/generate_sync.py. Do not edit.
