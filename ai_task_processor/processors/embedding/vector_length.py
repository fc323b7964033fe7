"""How many components the vectors of a model have, when nobody has said so: agreed upon by its answers, then held.

A server that answers vectors of another length now and then (a wrong model behind a balancer, a wrong encoding)
must not spoil a database: until two calls agree nothing is handed out, and from then on no other length is.
"""

from collections import Counter
from collections.abc import Iterable

from ai_task_processor.models.task import Vector

#: so many more calls must speak for a length than for any other
LEAD = 2
#: after so many calls of which none leads it is said that they differ
TOLD_AFTER = 8


class VectorLength:
    """``length``: components of a vector; None until calls agree. ``known``: a length that was agreed upon before."""

    def __init__(self, known: int | None = None, likely: int | None = None) -> None:
        """``likely``: the length that the model's name speaks for, which counts like one call."""
        self.length = known
        self._calls: Counter[int] = Counter() if likely is None else Counter({likely: 1})

    def seen(self, vectors: Iterable[Vector | None]) -> None:
        """One more call was answered with these."""
        if self.length is not None:
            return
        lengths = Counter(vector.dimensions for vector in vectors if vector is not None).most_common(2)
        if not lengths or (len(lengths) > 1 and lengths[0][1] == lengths[1][1]):
            return  # nothing, or two that are as frequent
        self._calls[lengths[0][0]] += 1
        (length, calls), *others = self._calls.most_common(2)
        if calls - (others[0][1] if others else 0) >= LEAD:
            self.length = length

    @property
    def undecided(self) -> bool:
        """Have many calls been answered, and none of the lengths leads?"""
        return self.length is None and self._calls.total() >= TOLD_AFTER
