"""`python -m hullwatch.cli`."""

import sys

from hullwatch.cli import main

sys.exit(main())
