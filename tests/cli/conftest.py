"""What the CLI's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input_support import make_case


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A spec's folder that `validate` finds good."""
    return make_case(tmp_path)
