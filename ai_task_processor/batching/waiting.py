"""A text on its way to a vector, and the groups of texts that one call carries."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from ai_task_processor.models.task import Usage, Vector


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vector. ``usage`` is its share of the call, by bytes (exact for a text that went alone).

    It is nothing when the vector was remembered.
    """

    vector: Vector
    usage: Usage


@dataclass(slots=True, eq=False)
class Waiting:
    """A text, and everyone who waits for its vector. ``key``: its place in the cache; ``size``: bytes of UTF-8.

    ``failures``: calls that carried it and failed; ``served_before``: how many calls of the model had been served
    when the first of them failed. ``refused_alone``: refusals while it was alone, ``refused_at``: the last of them.
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
    served_before: int = 0
    refused_alone: int = 0
    refused_at: float = 0.0

    @property
    def wanted(self) -> bool:
        """Does anybody still wait for it?"""
        for future in self.futures:
            if not future.done():
                return True
        return self.witness


@dataclass(slots=True, eq=False)
class Split:
    """A call that failed and was cut into parts: when all of them are served without one, its size was at fault."""

    inputs: int
    size: int
    parts: int
    refused: bool
    limit: int | None = None
    above: "Split | None" = None
    harmless: bool = True

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
