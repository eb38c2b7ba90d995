"""`python -m kontext.packed`: see kontext/packed/run.py."""

from __future__ import annotations

import sys

from kontext.packed.run import main

if __name__ == "__main__":
    sys.exit(main())
