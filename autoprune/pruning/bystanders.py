"""Requests that began before a policy was attached: they end as they began. Imports no torch."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any

log = logging.getLogger("autoprune.pruning")


class Bystanders:
    """Calls of a model's `generate` that a session did not see begin.

    Its image features and its cache are not a policy's, so a policy that reached into it would tear it. Hooks cannot
    tell whose forward they see; the caller's frames can.
    """

    def __init__(self, model: Any) -> None:
        """Before the model's `generate` is replaced."""
        self._model, self._said = model, False
        self._code = getattr(inspect.unwrap(model.generate), "__code__", None)

    def run_here(self) -> bool:
        """Whether the current thread is within such a call; to be asked where no request of the session runs in it."""
        frame = sys._getframe(1) if self._code is not None else None
        while frame is not None:
            if frame.f_code is self._code and frame.f_locals.get("self") is self._model:
                self._say()
                return True
            frame = frame.f_back
        return False

    def _say(self) -> None:
        if not self._said:
            self._said = True
            log.warning("a generate() that was called before the policy was attached runs unpruned")
