"""Which open service has each of the apps' backends: it starts them, and closes them in the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar
from weakref import WeakValueDictionary

from hybrid_detect.backends.base import Backend
from hybrid_detect.errors import ConfigurationError

__all__ = ["HeldBackends"]


class HeldBackends:
    """The backends that the app gave to a service; no other open service may have them.

    Closing either service would close them under the other's frames, and a backend belongs to one
    event loop.
    """

    _holders: ClassVar[WeakValueDictionary[int, HeldBackends]] = WeakValueDictionary()
    """By the `id` of a backend, which its holder keeps from being another's."""
    _holding: ClassVar = threading.Lock()  # services open in threads of their own

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = tuple(backends)

    def hold(self) -> None:
        """Take them, until `let_go` or for as long as this is referred to.

        Raises:
            ConfigurationError: If another open service has one of them: none is taken then.
        """
        with self._holding:
            for backend in self._backends:
                if self._holders.get(id(backend), self) is not self:
                    msg = (
                        f"the {backend.kind} backend is in another open service, which will close "
                        "it: make one for each service (a widget's backends= may be a function "
                        "that makes them)"
                    )
                    raise ConfigurationError(msg)
            for backend in self._backends:
                self._holders[id(backend)] = self

    def let_go(self) -> None:
        """Leave them to others. May be called more than once."""
        with self._holding:
            for backend in self._backends:
                if self._holders.get(id(backend)) is self:
                    del self._holders[id(backend)]
