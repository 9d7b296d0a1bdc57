"""How a search ends early, on purpose."""

from __future__ import annotations


class Interrupted(KeyboardInterrupt):
    """The user asked to stop. The study is left resumable: nothing runs, nothing measured is lost (exit code 130).

    It derives from KeyboardInterrupt so that no handler for ordinary errors mistakes it for one.
    """
