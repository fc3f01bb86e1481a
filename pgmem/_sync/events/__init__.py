# Generated from pgmem/events/ by tools/generate_sync.py. Do not edit.
