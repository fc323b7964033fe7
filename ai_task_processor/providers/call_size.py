"""How large one call of a model may be: inputs, bytes and tokens, learnt from what passed and what was refused.

A refused call is bisected until the largest that passes is known within a quarter; that is kept, over restarts
too (``state``, ``CallSize.restored``). As long as a refusal may be about the number of inputs or about the size,
the inputs are blamed; calls of as many inputs and other sizes then show whether that was right.
Nothing here reads a clock. Sizes are bytes of UTF-8.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

#: OpenAI's published limits for one embeddings call. A token is at least one byte of UTF-8: bytes bound tokens.
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
#: a cap that is known this well, as a share of what passes, is kept: to learn more costs more than it brings
PRECISION = 0.25
#: one larger call is tried after so many that passed: the provider may have raised its cap
PROBE_CALLS = 10_000
#: after a time-out, one of twice the size is tried after so many calls once it is known that this helped
PROBE_SLOW_CALLS = 1_000


class Cap:
    """The largest that is known to pass, and the smallest that was refused above it."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.refused = inf

    @property
    def most(self) -> float:
        """The most to try next."""
        if self.refused == inf:
            return inf
        if self.refused - self.passed <= max(1.0, PRECISION * self.passed):
            return max(1.0, self.passed)
        return (self.passed + self.refused) / 2

    def pass_(self, amount: float) -> None:
        self.passed = max(self.passed, amount)
        if self.passed >= self.refused:
            self.refused = inf

    def refuse(self, amount: float) -> None:
        self.refused = min(self.refused, amount)
        self.passed = min(self.passed, amount - 1)


class CallSize:
    """How large the next call of one model may be."""

    def __init__(self) -> None:
        self._inputs, self._size = Cap(), Cap()
        self._slow_inputs = inf

    @property
    def most_inputs(self) -> int:
        """Inputs that the next call should not exceed."""
        return max(1, int(min(self._inputs.most, self._slow_inputs, MAX_INPUTS)))

    @property
    def most_bytes(self) -> int:
        """Bytes that the next call should not exceed. A single text may: nothing else would help it."""
        return max(1, int(min(self._size.most, MAX_TOKENS)))

    def passed(self, inputs: int, size: int, tokens: int) -> None:
        """A call was served. ``tokens``: what was charged for it, 0 when that is unknown."""
        self._inputs.pass_(inputs)
        self._size.pass_(size)

    def too_large(self, inputs: int, size: int, told: int | None = None) -> None:
        """A call of several inputs was refused as too large. ``told``: a number that the provider's words name."""
        if inputs <= 1:
            return
        if inputs > self._inputs.passed:
            self._inputs.refuse(inputs)
        else:
            self._size.refuse(size)

    def timed_out(self, inputs: int, size: int) -> None:
        """A call was not answered in time."""
        self._slow_inputs = max(1, inputs // 2)

    def state(self) -> dict[str, float]:
        """What ``restored`` takes, as JSON."""
        return {}

    @classmethod
    def restored(cls, mapping: Mapping[str, Any]) -> "CallSize":
        """As ``state`` left it; anything else is as good as nothing."""
        return cls()
