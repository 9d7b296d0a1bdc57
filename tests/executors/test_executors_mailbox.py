"""What the search hears from the thread in which Ray Tune runs."""

from __future__ import annotations

import pytest
from executors_fakes import ask

from autoprune.errors import AutoPruneError
from autoprune.executors.mailbox import Mailbox


def test_the_end_of_tune_is_said_to_whoever_asks_again() -> None:
    mailbox = Mailbox(1, None, lambda worker: None)
    mailbox.put(ask("a"))
    mailbox.fail(AutoPruneError("Ray Tune gave up"))
    for _ in range(2):
        with pytest.raises(AutoPruneError, match="gave up"):
            mailbox.take(5.0)
