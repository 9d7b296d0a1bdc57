"""The reference model's scripts are flat files, not a package: tests import them from their folder."""

import sys
from pathlib import Path

# At the end: an installed package of the same name goes first, so nothing else changes for the other tests.
sys.path.append(str(Path(__file__).parents[2] / "examples" / "reference_vlm"))
