"""The dimension of a model's vectors, when it is not configured: fixed as soon as two more calls agree on it.

A server that now and then answers vectors of another length (a wrong model behind a balancer, a wrong encoding)
must not corrupt a vector database: no vector is handed out before, and none of another length afterwards.
"""

from collections import Counter
from collections.abc import Iterable

from ai_task_processor.models.task import Vector

#: calls that a length must be ahead of every other one
LEAD = 2
#: calls without such a length after which it is an error
UNDECIDED_AFTER = 8


class VectorLength:
    """``length``: components of a vector; None until calls agree. ``known``: a length that was agreed upon before."""

    def __init__(self, known: int | None = None, likely: int | None = None) -> None:
        """``likely``: the usual length for the model's name; it counts like one call."""
        self.length = known
        self._calls: Counter[int] = Counter() if likely is None else Counter({likely: 1})

    def seen(self, vectors: Iterable[Vector | None]) -> None:
        """A call was answered with these."""
        if self.length is not None:
            return
        lengths = Counter(vector.dimensions for vector in vectors if vector is not None).most_common(2)
        if not lengths or (len(lengths) > 1 and lengths[0][1] == lengths[1][1]):
            return  # no vector, or two lengths that are equally frequent
        self._calls[lengths[0][0]] += 1
        (length, calls), *others = self._calls.most_common(2)
        if calls - (others[0][1] if others else 0) >= LEAD:
            self.length = length

    @property
    def undecided(self) -> bool:
        """Have many calls been answered, and no length is ahead?"""
        return self.length is None and self._calls.total() >= UNDECIDED_AFTER
