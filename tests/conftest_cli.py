"""Running commands in this process."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from autoprune.cli.main import main


@dataclass(frozen=True)
class Cli:
    """One command's exit code and stdout."""

    code: int
    out: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def cli(*arguments: str) -> Cli:
    """Run one command; -> what it returned and printed."""
    out = StringIO()
    with redirect_stdout(out):
        code = main(list(arguments))
    return Cli(code, out.getvalue())
