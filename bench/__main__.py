"""`make bench`: the storms. Other measurements: python bench/latency.py, bench/replay.py, ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from storms import main

main()
