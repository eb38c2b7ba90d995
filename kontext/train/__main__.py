"""`python -m kontext.train JOB.json`: one rank of a run, started by torchrun or a scheduler."""

import sys

from kontext.parallel.ranks.rank import main

CHANGES_RESULTS = False  # starts a rank

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kontext.train JOB.json (see kontext/parallel/ranks/rank.py)")
    main(sys.argv[1])
