"""Times this package and others: `benchmarks.benchmark` as a script."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not installed

from benchmarks.benchmark import main

if __name__ == "__main__":
    main()
