"""A text on its way to a vector, and the groups of texts that one call carries."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ai_task_processor.core.errors import InputRefused, Transient
from ai_task_processor.models.task import Embedded


@dataclass(slots=True, eq=False)
class Waiting:
    """A text, and everyone who waits for its vector. ``key``: its place in the cache; ``size``: bytes of UTF-8.

    ``failures``: calls that carried it and failed, the last one at ``failed_at``; ``alone``: did it travel alone in one
    of them? ``served_before``: how many calls of the model had been served by then. ``refused_alone``: refusals that
    do not say enough, while it was alone; ``final``: what it ends with after enough of them.
    """

    text: str
    size: int
    key: bytes = b""
    futures: list[asyncio.Future[Embedded]] = field(default_factory=list)
    #: a text of ours that shows whether the model is well; nobody waits for its vector
    witness: bool = False
    #: was it in a call that was answered with 429?
    throttled: bool = False
    failures: int = 0
    failed_at: float = 0.0
    alone: bool = False
    served_before: int = 0
    refused_alone: int = 0
    final: InputRefused | None = None

    @property
    def wanted(self) -> bool:
        """Does anybody still wait for it?"""
        for future in self.futures:
            if not future.done():
                return True
        return self.witness


class Texts:
    """The texts of one model that wait or are on their way, for whoever brings the same."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, text: str) -> Waiting | None:
        return self._waiting.get(text)

    def add(self, waiting: Waiting) -> None:
        self._waiting[waiting.text] = waiting

    def forget(self, waiting: Waiting) -> None:
        """Nobody can join it any more."""
        if self._waiting.get(waiting.text) is waiting:
            del self._waiting[waiting.text]

    def wanted(self, texts: list[Waiting]) -> list[Waiting]:
        """Without the texts that nobody waits for any more."""
        wanted = []
        for waiting in texts:
            if waiting.wanted:
                wanted.append(waiting)
            else:
                self.forget(waiting)
        return wanted

    def answer(self, waiting: Waiting, embedded: Embedded) -> None:
        """Hand the vector to everyone who waits for it."""
        self.forget(waiting)
        for future in waiting.futures:
            if not future.done():
                future.set_result(embedded)

    def send_away(self, texts: Iterable[Waiting], error: Exception) -> None:
        """Tell everyone who waits for these texts why they have to go without."""
        for waiting in texts:
            self.forget(waiting)
            for future in waiting.futures:
                if not future.done():
                    future.set_exception(error)

    @staticmethod
    def stopped() -> Transient:
        """What those are told who still wait when batching ends."""
        return Transient("the model calls have been stopped")


class TextQueue:
    """Texts that wait to travel together, oldest first; ``size``: their bytes."""

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
        """The next batch, within the size of one call. Texts nobody waits for any more are dropped."""
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
        """Take all of them off."""
        texts, self.size = list(self._texts), 0
        self._texts.clear()
        return texts


#: how a call failed: refused in words that speak of its size, or not answered in time, or otherwise
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
        """One of its parts has ended; answers the calls, this one and those above, of which all parts were served."""
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
    """Texts that travel together. ``split``: the failed call that they are a part of.

    ``lone``: one text that is better sent without others, beside the model's other calls.
    """

    texts: list[Waiting]
    split: Split | None = None
    lone: bool = False

    @property
    def size(self) -> int:
        return sum([waiting.size for waiting in self.texts])

    def after(self, count: int) -> "Part":
        """Take off all but the first ``count`` texts; what is taken off is a part of the same call."""
        rest = Part(self.texts[count:], self.split, self.lone)
        self.texts = self.texts[:count]
        if self.split is not None:
            self.split.parts += 1
        return rest


class Line:
    """What a call gives back to the queue that it came from."""

    def put_back(self, part: Part) -> None:
        """To be sent again, before anything else."""
        raise NotImplementedError

    def add_parts(self, parts: Iterable[Part]) -> None:
        """To be sent as they are, after those that wait."""
        raise NotImplementedError

    def send_all_away(self, error: Exception) -> None:
        """Tell everyone who waits and is not in a call under way."""
        raise NotImplementedError
