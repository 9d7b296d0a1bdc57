from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.store import open_store
from autoprune.store.store import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/folder/autoprune.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as opened:
        yield opened
