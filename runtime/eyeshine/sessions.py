"""The sessions of a bundle: opened when they are first asked for, gated, kept."""

from __future__ import annotations

import threading

from eyeshine.bundle import Bundle
from eyeshine.engine import EngineOptions, Session, open_session
from eyeshine.verify import gate

__all__ = ["Sessions"]


class Sessions:
    """Opens each graph of a bundle once. May be used from several threads.

    Args:
        bundle: an opened bundle.
        options: which engine runs it, and how.
        check: refuse an engine whose graph yields wrong numbers, when it is first loaded on this machine.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions, *, check: bool) -> None:
        self._bundle, self._options, self._check = bundle, options, check
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, graph: str) -> Session:
        """The session of a graph.

        Raises:
            SignalError: the bundle has no such graph.
            EngineError: the engine is not there, refuses the graph, or computes it wrongly.
        """
        with self._lock:
            if graph not in self._open:
                session = open_session(self._bundle, graph, self._options)
                if self._check:
                    gate(self._bundle, graph, session, self._options)
                self._open[graph] = session
            return self._open[graph]
