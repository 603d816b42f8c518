"""``python -m horde_dataset`` is ``horde-dataset``."""

import sys

from horde_dataset.cli import run

sys.exit(run())
