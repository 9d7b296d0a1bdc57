"""`python -m autoprune`."""

from __future__ import annotations

from autoprune.cli.main import run

run()
