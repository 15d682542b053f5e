"""`python -m hdit_cli`, which `torchrun -m hdit_cli train ...` starts on every rank."""

import sys

from hdit_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
