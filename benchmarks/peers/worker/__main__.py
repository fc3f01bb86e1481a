"""What runs in the peers' environment; see `process`, which starts this folder by its path.

Python then imports from here, and so finds `works`, which may import the peers and what they bring
along, nothing of pgmem and nothing of the benchmarks: neither is installed there.
"""

from works.serving import main

if __name__ == "__main__":
    main()
