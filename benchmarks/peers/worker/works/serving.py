"""Take orders for one of the works, and answer.

Input is lines of JSON: what to be, then orders, each followed by the moment to start at and an
argument, then null. Output is lines of JSON: `[true, answer]`, or `[false, reason]`.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import traceback
from typing import IO

from . import WORKS


def main() -> None:
    """Serve the parent process until it sends null or ends."""
    # Output that a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING)
    _serve(sys.stdin.buffer, answers)


def _serve(lines: IO[bytes], answers: IO[bytes]) -> None:
    def say(good: bool, answer: object) -> None:
        answers.write(json.dumps([good, answer]).encode() + b"\n")
        answers.flush()

    try:
        hello = json.loads(lines.readline())
        work = WORKS[hello["work"]](hello["url"], hello["payload"])
        # As in a crew's member: imported modules are not collected again in a round.
        gc.collect()
        gc.freeze()
        say(True, None)
        # An empty line is the end of the file: the parent has ended.
        while (line := lines.readline()) and (order := json.loads(line)) is not None:
            gc.collect()
            say(True, None)
            name, _, count = order.partition("/")
            say(True, work.go(name, int(count or 0), *json.loads(lines.readline())))
        work.close()
    except Exception:  # The parent raises it.
        say(False, traceback.format_exc())
        sys.exit(1)
