# Generated from pgmem/folds/ by tools/generate_sync.py. Do not edit.
