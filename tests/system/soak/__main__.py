"""The ordering proof at any size: `python -m tests.system.soak --commits 1000000 --seed 1`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile

from tests.support.server import SERVER_VARIABLE, TEMPLATE, Server, fresh_database
from tests.system.soak.ordering import Proof


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=__doc__)
    parser.add_argument("--commits", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--chaos", type=float, default=1.0, help="seconds between two faults")
    parser.add_argument("--pg", help="a version, a folder with binaries, or a URL")
    options = parser.parse_args()

    def tell(line):
        print(line, flush=True)

    tell(f"seed {options.seed}, {options.commits} commits")
    server = Server(options.pg)
    server.start()
    try:
        with (
            fresh_database(os.environ[SERVER_VARIABLE], TEMPLATE) as url,
            tempfile.TemporaryDirectory() as folder,
        ):
            proof = Proof(
                url, options.commits, options.seed, folder, chaos=options.chaos, tell=tell
            )
            faults = proof.run()
    finally:
        server.stop()
    tell(f"seed {options.seed}: {'FAULTS ' + str(faults) if faults else 'no fault'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
