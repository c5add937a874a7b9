"""``python -m realuid_lightning.cli``: the command where its console script is not on the PATH."""

import sys

from realuid_lightning.cli import main

sys.exit(main())
