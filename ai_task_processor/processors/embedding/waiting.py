"""Texts that wait for their vectors, and the groups in which calls carry them."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ai_task_processor.core.errors import InputRefused, Transient
from ai_task_processor.models.task import Embedded
from ai_task_processor.ops.tracing import Span


@dataclass(slots=True, eq=False)
class Waiting:
    """A text and the futures of its vector. ``key``: of the cache; ``size``: bytes of UTF-8.

    ``failures``: calls that carried it and failed, the last one at ``failed_at``; ``isolated``: was one isolated?
    ``spans``: of the attempts that wait for it, when they are traced.
    ``served_before``: how many calls of the model had been served by then. ``refusals``: isolated refusals
    without a reason; ``final``: what the text ends with after enough of them.
    """

    text: str
    size: int
    key: bytes = b""
    futures: list[asyncio.Future[Embedded]] = field(default_factory=list)
    #: the daemon's own text, sent to see whether the model is well; no task waits for its vector
    witness: bool = False
    #: was it in a call that was answered with 429?
    throttled: bool = False
    failures: int = 0
    failed_at: float = 0.0
    isolated: bool = False
    served_before: int = 0
    refusals: int = 0
    final: InputRefused | None = None
    spans: Sequence[Span] = ()

    @property
    def wanted(self) -> bool:
        """Does a task still wait for it?"""
        for future in self.futures:
            if not future.done():
                return True
        return self.witness


class Texts:
    """The texts of one model that wait or are in a call, so that an equal text can join."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, text: str) -> Waiting | None:
        return self._waiting.get(text)

    def add(self, waiting: Waiting) -> None:
        self._waiting[waiting.text] = waiting

    def forget(self, waiting: Waiting) -> None:
        """No equal text can join it any more."""
        if self._waiting.get(waiting.text) is waiting:
            del self._waiting[waiting.text]

    def wanted(self, texts: list[Waiting]) -> list[Waiting]:
        """Without the texts that no task waits for any more."""
        wanted = []
        for waiting in texts:
            if waiting.wanted:
                wanted.append(waiting)
            else:
                self.forget(waiting)
        return wanted

    def answer(self, waiting: Waiting, embedded: Embedded) -> None:
        """Resolve the futures with the vector."""
        self.forget(waiting)
        for future in waiting.futures:
            if not future.done():
                future.set_result(embedded)

    def fail(self, texts: Iterable[Waiting], error: Exception) -> None:
        """Fail the futures of these texts."""
        for waiting in texts:
            self.forget(waiting)
            for future in waiting.futures:
                if not future.done():
                    future.set_exception(error)

    @staticmethod
    def stopped() -> Transient:
        """The error of texts that still wait when batching ends."""
        return Transient("the model calls have been stopped")


class TextQueue:
    """Texts that wait for the next batch, oldest first; ``size``: their bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._texts: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._texts)

    def append(self, waiting: Waiting) -> None:
        self._texts.append(waiting)
        self.size += waiting.size

    def put_back(self, texts: list[Waiting]) -> None:
        """Before all others, in their order."""
        self._texts.extendleft(reversed(texts))
        self.size += sum([waiting.size for waiting in texts])

    def take(self, most: int, most_bytes: int, known: Texts) -> list[Waiting]:
        """The next batch, within the size of one call. Texts that no task waits for any more are dropped."""
        batch: list[Waiting] = []
        queue, size = self._texts, 0
        while queue and len(batch) < most:
            waiting = queue[0]
            if waiting.wanted:
                size += waiting.size
                if batch and size > most_bytes:
                    break
                batch.append(waiting)
            else:
                known.forget(waiting)
            self.size -= waiting.size
            queue.popleft()
        return batch

    def clear(self) -> list[Waiting]:
        """Remove and return all of them."""
        texts, self.size = list(self._texts), 0
        self._texts.clear()
        return texts


#: how a call failed: refused because of its size, not answered in time, or otherwise
How = Literal["too_large", "slow", "failed"]


@dataclass(slots=True, eq=False)
class Split:
    """A call that failed and was cut into parts: when all of them are served without one, its size was at fault."""

    inputs: int
    size: int
    parts: int
    how: How
    limit: int | None = None
    above: "Split | None" = None
    harmless: bool = True
    #: of the call that was cut first: the largest of its parts that was served, and the smallest that failed
    largest_served: int = 0
    smallest_failed: int = 0

    @property
    def first(self) -> "Split":
        """The call that was cut first."""
        return self if self.above is None else self.above.first

    @property
    def most_next(self) -> int:
        """The most texts for the next part, of the call that was cut first, once one of its parts was served."""
        return max(self.largest_served, min(2 * self.largest_served, -(-self.smallest_failed // 2)))

    def ended(self, *, served: bool) -> "Iterable[Split]":
        """One of its parts has ended; yields the calls, this one and those above, of which all parts were served."""
        self.parts -= 1
        self.harmless &= served
        if self.parts:
            return
        if self.harmless:
            yield self
        if self.above is not None:
            yield from self.above.ended(served=self.harmless)


@dataclass(slots=True, eq=False)
class Part:
    """Texts for one call. ``split``: the failed call that they are a part of.

    ``isolated``: one text in isolation, sent concurrently with the model's other calls.
    """

    texts: list[Waiting]
    split: Split | None = None
    isolated: bool = False

    @property
    def size(self) -> int:
        return sum([waiting.size for waiting in self.texts])

    def after(self, count: int) -> "Part":
        """Remove all but the first ``count`` texts; returns the removed ones as a part of the same split."""
        rest = Part(self.texts[count:], self.split, self.isolated)
        self.texts = self.texts[:count]
        if self.split is not None:
            self.split.parts += 1
        return rest


class Line:
    """The queue that a call came from, and to which it returns texts."""

    def put_back(self, part: Part) -> None:
        """To be sent again, before anything else."""
        raise NotImplementedError

    def add_parts(self, parts: Iterable[Part]) -> None:
        """To be sent as they are, after those that wait."""
        raise NotImplementedError

    def fail_all(self, error: Exception) -> None:
        """Fail every text that waits and is not in a call under way."""
        raise NotImplementedError
