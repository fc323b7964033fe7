"""What happened, as seen from outside the daemon: the only thing that it is judged by.

The upstream writes down every exchange when it has ended, and the supervisor what it did to the
process and to its surroundings. Nothing in here was told by the daemon itself.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

Exchange = Literal["token", "poll", "patch", "model"]
Kind = (
    Exchange
    | Literal["closed", "started", "killed", "terminated", "ended", "stopped", "rotated", "disk-full", "disk-free"]
    | Literal["away", "back", "clock"]
)

#: how much of what happened around a task belongs to its timeline
MARGIN_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One exchange, or one thing that was done to the daemon. Times are on the monotonic clock.

    ``at`` is when a request had arrived, ``ended`` when the last byte of the answer was handed over.
    ``incarnation``: the process that asked. ``intact``: a whole answer that says what was done went
    out. ``state``: what a PATCH made of the task, empty when nothing was saved. ``callback``: its
    result was written into the target document; ``correct``: bit for bit what the model gave.
    ``paid``: vectors were made; ``spoiled``: the tasks whose vector in that answer was unusable.
    ``refused``: answered with a definitive 400 about this very request. ``body`` identifies a PATCH's body.
    """

    kind: Kind
    at: float
    ended: float = 0.0
    incarnation: str = ""
    tasks: tuple[str, ...] = ()
    connection: int = 0
    status: int = 0
    intact: bool = False
    fault: str = ""
    state: str = ""
    callback: bool = False
    correct: bool = True
    paid: bool = False
    spoiled: frozenset[str] = frozenset()
    refused: bool = False
    body: str = ""
    note: str = ""

    def told(self, since: float) -> str:
        """One line of a timeline."""
        words = [f"{self.at - since:9.3f} s", f"{self.incarnation or '-':<4}", self.kind]
        if self.kind in get_args(Exchange):
            words.append(f"answered {self.status or 'nothing'} after {self.ended - self.at:.3f} s")
        words += [name for name in ("intact", "callback", "paid", "refused") if getattr(self, name)]
        words += [f"{name}={value}" for name in ("state", "fault", "note") if (value := getattr(self, name))]
        return "  ".join(words if self.correct else [*words, "WRONG RESULT"])


@dataclass(slots=True)
class History:
    """Events in the order in which they ended."""

    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def note(self, kind: Kind, incarnation: str = "", note: str = "") -> None:
        """Something that was done now."""
        now = time.monotonic()
        self.add(Event(kind=kind, at=now, ended=now, incarnation=incarnation, note=note))

    def count(self, kind: Kind, incarnation: str | None = None) -> int:
        return sum(event.kind == kind and incarnation in (None, event.incarnation) for event in self.events)

    def timeline(self, task_id: str) -> Iterator[str]:
        """Everything about one task, and what was done to the daemon meanwhile."""
        events = sorted(self.events, key=lambda event: event.at)
        own = [event for event in events if task_id in event.tasks]
        if not own:
            return iter(["nobody ever asked about it"])
        since, until = own[0].at - MARGIN_S, own[-1].ended + MARGIN_S
        around = {event.kind for event in events} - {"closed", *get_args(Exchange)}
        chosen = [e for e in events if task_id in e.tasks or (e.kind in around and since <= e.at <= until)]
        return (event.told(events[0].at) for event in chosen)
