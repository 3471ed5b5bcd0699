"""The benchmarks are scripts, not part of the wheel: found last, so that the wheel stays first."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:
    sys.path.append(ROOT)
