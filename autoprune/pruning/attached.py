"""A policy at work on a model, and the way to take it off again. Importing this file imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.pruning.session import Session


class Attached:
    """What `LoadedPolicy.attach` returns: the model prunes from then on, until `detach()` or the end of a `with`.

    The model itself keeps the session, so losing this handle changes nothing: a server whose model stopped pruning
    because a variable went out of scope would answer on, slower, without a word. Keep it where the model is kept.
    """

    def __init__(self, session: Session, release: Callable[[], None] | None = None) -> None:
        """`session` has been entered already. `release` ends it, where more is to be done then."""
        self._session, self._release = session, release
        self._lock = threading.Lock()

    @property
    def session(self) -> Session:
        """The record of what runs under the policy, and overrides of it."""
        return self._session

    @property
    def attached(self) -> bool:
        """Whether the policy is still on the model."""
        return self._session.on

    def detach(self) -> None:
        """Restore the model bit for bit. A second time does nothing, whatever is attached by then."""
        with self._lock:
            if not self._session.on:
                return
            if self._release is None:
                self._session.__exit__(None, None, None)
            else:
                self._release()

    def __enter__(self) -> Session:
        """The session. Raises AutoPruneError once the policy has been detached."""
        if not self._session.on:
            raise AutoPruneError("this policy has been detached from its model; attach it again")
        return self._session

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'on' if self.attached else 'detached'}>"
