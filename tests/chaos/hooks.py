"""The hooks in the daemon: kill points, a full disk, a wrong clock, and a signature on every request.

They hang on names of the product, from outside. The product knows nothing of them.
"""

import asyncio
import json
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.engine import daemon as app
from ai_task_processor.net import resilience, services
from ai_task_processor.providers.deferred import DeferredProvider
from ai_task_processor.sources.rest.source import RestSource
from ai_task_processor.stores.sqlite.journal import FileJournal
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.stores.sqlite.writer import Writer
from tests.chaos.upstream import INCARNATION

LOOK_S = 0.02


def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Set ``owner.name`` to ``wrap(what was there)``. A hook on nothing proves nothing: it is a ``SystemExit``."""
    if name not in vars(owner):
        raise SystemExit(f"chaos: {owner!r} has no {name!r} any more: the hook on it must be mended")
    setattr(owner, name, wrap(vars(owner)[name]))


@dataclass(slots=True)
class KillPoints:
    """Ends this process, with SIGKILL, the ``number``-th time that the point ``name`` is reached."""

    name: str = ""
    number: int = 0
    reached: Counter[str] = field(default_factory=Counter)

    def at(self, name: str) -> None:
        self.reached[name] += 1
        if name == self.name and self.reached[name] == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def around(self, owner: type, method: str, before: str = "", after: str = "", *, empty: bool = True) -> None:
        """Points on both sides of an async method. ``empty``: does a result without content count, too?"""

        def wrap(work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def hooked(*arguments: Any, **options: Any) -> Any:
                self.at(before)
                result = await work(*arguments, **options)
                if empty or result:
                    self.at(after)
                return result

            return hooked

        replaced(owner, method, wrap)

    def after_call(self, owner: type, method: str, after: str, resolved: str = "") -> None:
        """A point after a plain method, and another when the future that it returns has its result."""

        def wrap(work: Callable[..., Any]) -> Callable[..., Any]:
            def hooked(*arguments: Any, **options: Any) -> Any:
                result = work(*arguments, **options)
                self.at(after)
                if isinstance(result, asyncio.Future):
                    result.add_done_callback(lambda done: None if done.exception() else self.at(resolved))
                return result

            return hooked

        replaced(owner, method, wrap)

    def install(self) -> None:
        self.around(RestSource, "claim", after="claimed", empty=False)
        self.around(FileJournal, "begin", after="started")
        self.around(DeferredProvider, "embed", before="model-asked", after="model-answered")
        self.after_call(SqliteOutbox, "put", "accepted", "committed")
        self.around(RestSource, "report", before="report", after="acknowledged")
        self.around(SqliteOutbox, "delivered", after="erased")
        self.after_call(app.Daemon, "_signalled", "draining")


class Surroundings:
    """Disk and wall clock, as a control file says: ``{"disk_full": false, "clock_offset_s": 0}``."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._disk_full = False
        self._offset = timedelta()
        self._look()

    def install(self) -> None:
        replaced(SystemClock, "now", lambda now: lambda clock: self._now(now(clock)))
        replaced(Writer, "_perform", self._limited)
        threading.Thread(target=self._watch, daemon=True).start()

    def _now(self, now: datetime) -> datetime:
        return now + self._offset

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        told = json.loads(self._control.read_text())
        self._disk_full, self._offset = told["disk_full"], timedelta(seconds=told["clock_offset_s"])

    def _limited(self, perform: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """A full disk: the file cannot grow, and what was free inside of it is taken away first."""
        full = False

        def hooked(writer: Any, group: Any) -> None:
            nonlocal full
            if full != self._disk_full:
                full = self._disk_full
                self._limit(writer._db, full)
            perform(writer, group)

        return hooked

    def _limit(self, db: sqlite3.Connection, full: bool) -> None:
        if full:
            db.execute("VACUUM")
        db.execute(f"PRAGMA max_page_count = {1 if full else 2**30}")


def sign(incarnation: str) -> None:
    """Every request of this process says which process it comes from."""

    def wrap(make_client: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*arguments: Any, **options: Any) -> Any:
            client = make_client(*arguments, **options)
            client.pool.headers[INCARNATION] = incarnation
            return client

        return hooked

    replaced(services, "make_client", wrap)


def shorten_circuits(first_s: float, longest_s: float) -> None:
    """An open circuit probes sooner, so that an outage of an hour fits into seconds."""
    replaced(resilience, "OPEN_S", lambda _: (first_s, longest_s))
