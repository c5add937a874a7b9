"""``python -m realuid_lightning.cli``: the command where its console script is not on the PATH."""

import sys

from realuid_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
