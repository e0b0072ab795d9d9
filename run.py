"""`python run.py` is the whole job; `python run.py --help` says what else it does."""

import sys

from mprm.main import main

if __name__ == "__main__":
    sys.exit(main())
