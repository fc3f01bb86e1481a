"""Define the two implementations on Redis that pgmem is compared with.

`published` is the approach of the article that the project came from, with its faults. `right` is
what a good Redis engineer would write in its place, with its Lua in `scripts` and its types in
`records`. Both take a redis-py client from the caller, and know nothing of scenarios, rounds or
figures.
"""
