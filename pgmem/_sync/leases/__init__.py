# Generated from pgmem/leases/ by tools/generate_sync.py. Do not edit.
