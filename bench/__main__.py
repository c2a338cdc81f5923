"""`make bench`: storms, then latency, then replay; ARGS go to the storms (--rounds, --only, ...).

The others, each with --help: python bench/detect_throughput.py, capture_throughput.py,
store_throughput.py, backtest.py, baseline_cost.py, sigma_case.py, decide.py,
decisions.py.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = (
    ("storms", sys.argv[1:]),
    ("latency", []),
    ("replay", []),
)

failed = False
for name, arguments in PARTS if not {"-h", "--help"} & set(sys.argv) else PARTS[:1]:
    print(f"== bench/{name}.py", flush=True)
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], check=False)
    failed |= done.returncode != 0
sys.exit(failed)
