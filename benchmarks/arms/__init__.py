"""The two arms on Redis that pgmem is compared with.

`published` is the approach of the article that the project came from, faults and all; `right` is
what a good Redis engineer would write in its place, with its Lua in `scripts` and what it takes and
gives in `records`. Both take a redis-py client that the caller made, and know nothing of scenarios,
rounds or figures.
"""
