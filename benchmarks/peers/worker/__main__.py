"""Run a work in the peers' environment; see `process`, which starts this folder by its path.

Python then imports from here and so finds `works`. These may import the peers and their
dependencies, but neither pgmem nor the benchmarks, which are not installed there.
"""

from works.serving import main

if __name__ == "__main__":
    main()
