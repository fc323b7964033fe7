"""How large one call of a model may be, in inputs and bytes: learnt from calls that pass, are refused or time out.

A refused size is halved until a call passes, then bisected until the largest that passes is known within a quarter.
It is persisted (``state``, ``CallSize.restored``). Of n inputs with a cap of c, at most log2(n / c) + 3 calls are
refused. One larger call in 10,000 finds out that a provider has raised its cap.

Providers limit inputs, tokens, or bytes. Only bytes are known before a call: limits are learnt in tokens and
converted to bytes with the highest density that is likely. Nothing here reads a clock. Sizes are bytes of UTF-8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, log2
from typing import Any

#: OpenAI's published limits for one embeddings call. A token is at least one byte of UTF-8, so that bytes bound
#: tokens from above without a tokenizer.
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
#: a cap is known well enough when the least refused size exceeds the largest passed one by this share
PRECISION = 0.25
#: calls that pass before one larger is tried, because the provider may have raised its cap
PROBE_AFTER = 10_000
#: Calls that pass before one of twice the size is tried after timeouts: first, and at most. Such a call may cost a
#: whole timeout, and nothing else shows whether the model is slow or was down.
SLOW_PROBE_AFTER = (10, 1_000)
#: Calls over which the usual density is averaged, and (first, later) over which the densest call fades: about one call
#: in a thousand is denser.
USUAL_OVER, LIKELY_OVER = 16, (400, 4_000)
#: a smaller call is no evidence of density: fixed charges for each call or text are most of it
DENSITY_FROM_BYTES = 512
#: likely over usual density after one call; factor after a call that was refused although that was not likely
MARGIN, WIDER = 1.25, 1.1


@dataclass(slots=True)
class Cap:
    """One limit: the most that has ``passed``, the least that was ``refused``, and the cap that the provider states."""

    passed: float = 0.0
    refused: float = inf
    stated: float = inf

    @property
    def settled(self) -> bool:
        """Is it known well enough?"""
        return self.refused - self.passed <= max(1.0, PRECISION * self.passed)

    @property
    def most(self) -> float:
        """What to try next: the stated cap, and once a little more; half of what was refused, or the middle."""
        if self.stated < self.refused:
            more = self.stated + max(1.0, PRECISION * self.stated)
            verified = self.passed * (1 + PRECISION) >= self.stated
            return more if verified and more < self.refused else self.stated
        if self.refused == inf:
            return inf
        if not self.passed:
            return _half(self.refused)
        return self.passed if self.settled else (self.passed + self.refused) / 2

    def pass_(self, amount: float) -> None:
        """This amount passed. If it is far more than was refused or stated before, that limit is gone."""
        if amount > self.stated:
            self.stated = inf
        self.passed = max(self.passed, amount)
        if self.passed >= self.refused:
            far = max(self.refused + 1, (1 + PRECISION) * self.refused)
            self.refused = inf if self.passed >= far else self.passed

    def refuse_stated(self, stated: float, amount: float) -> None:
        """This amount was refused, and the provider stated its cap."""
        self.stated, self.passed = stated, min(self.passed, stated)
        self.refuse(max(amount, stated + 1))

    def refuse(self, amount: float) -> None:
        """This amount was refused; ``passed`` stays below it."""
        self.refused = min(self.refused, max(1.0, amount))
        if self.passed >= self.refused:
            self.passed = self.refused / (1 + PRECISION / 2)


@dataclass(slots=True)
class Density:
    """Tokens per byte of the calls that passed: the usual, and the most that is ``likely``. Both begin at 1."""

    usual: float = 1.0
    likely: float = 1.0
    calls: float = 0

    def see(self, density: float) -> None:
        """A call that passed was this dense. ``likely`` decays slowly."""
        density = min(1.0, density)
        if self.usual == 1.0:
            self.usual, self.likely = density, min(1.0, MARGIN * density)
        self.usual += (density - self.usual) / USUAL_OVER
        self.calls = min(self.calls + 1, LIKELY_OVER[1])
        self.likely = max(density, self.likely + (self.usual - self.likely) / max(self.calls, LIKELY_OVER[0]))

    def widen(self, density: float) -> None:
        """A refused call was denser than this, although that was not likely."""
        self.likely = min(1.0, max(self.likely, density) * WIDER)


@dataclass(slots=True)
class Slowness:
    """The bounds that timeouts of larger calls set. ``probe_after``: calls that must pass before a larger one."""

    inputs: float = inf
    size: float = inf
    passed: float = 0
    probe_after: float = SLOW_PROBE_AFTER[0]

    @property
    def factor(self) -> int:
        """2 when a larger call is due."""
        return 2 if self.passed >= self.probe_after else 1

    def pass_(self, inputs: int, size: int) -> None:
        """A call was answered. One beyond the bounds was a probe: the next one is larger still."""
        if inputs > self.inputs or size > self.size:
            self.inputs, self.size = max(self.inputs, inputs), max(self.size, size)
            self.passed, self.probe_after = 0, 1
        self.passed += 1

    def time_out(self, inputs: int, size: int) -> None:
        """A call timed out: the bounds become half of it. After a probe, the next one waits 10 times as long."""
        probe = inputs > self.inputs or size > self.size
        self.probe_after = min(SLOW_PROBE_AFTER[1], max(SLOW_PROBE_AFTER[0], 10 * self.probe_after if probe else 0))
        self.inputs, self.size = min(self.inputs, _half(inputs)), min(self.size, max(1, size // 2))
        self.passed = 0


class CallSize:
    """How large the next call of one model may be."""

    def __init__(self) -> None:
        self._inputs, self._tokens = Cap(), Cap()
        self._density, self._slowness = Density(), Slowness()
        self._inputs_or_tokens = 0.0
        self._passed_since = 0
        self._contradictions = self._time_outs = 0

    @property
    def most_inputs(self) -> int:
        """Inputs that the next call should not exceed."""
        slow = self._slowness
        return max(1, int(min(self._stretch * self._inputs.most, slow.factor * slow.inputs, MAX_INPUTS)))

    @property
    def most_bytes(self) -> int:
        """Bytes that the next call should not exceed. A single text may: it cannot be divided."""
        slow, cap = self._slowness, self._stretch * self._tokens.most / self._density.likely
        return max(1, int(min(cap, slow.factor * slow.size, MAX_TOKENS)))

    def tokens(self, size: int) -> int:
        """What a call of this size is likely to cost at most."""
        return round(size * self._density.likely)

    def passed(self, inputs: int, size: int, tokens: int) -> None:
        """A call was served. ``tokens``: what was charged for it, 0 when that is unknown."""
        if size >= DENSITY_FROM_BYTES and tokens > 0:
            self._density.see(tokens / size)
        self._inputs.pass_(inputs)
        self._tokens.pass_(tokens or size * self._density.usual)
        self._slowness.pass_(inputs, size)
        self._passed_since += 1
        self._contradictions = self._time_outs = 0

    def too_large(self, inputs: int, size: int, stated: int | None = None) -> None:
        """A call was refused as too large. One with a single input is no evidence about others.

        ``stated``: the cap of a call in the provider's message. Below the number of inputs it is taken for one of
        inputs, below the bytes for one of tokens, else it is ignored. One call that is a little larger verifies it.
        """
        if inputs <= 1:
            return
        self._passed_since = 0
        if stated is not None and 0 < stated < inputs:
            self._inputs.refuse_stated(stated, inputs)
        elif stated is not None and 0 < stated < size:
            self._tokens.refuse_stated(stated, size * self._density.usual)
        else:
            self._refused_without_cap(inputs, size)

    def timed_out(self, inputs: int, size: int) -> None:
        """A call timed out. If calls as large have passed, it counts only from the second in a row on."""
        if inputs <= 1:
            return
        usual = inputs <= self._inputs.passed and size * self._density.usual <= self._tokens.passed
        self._time_outs += 1
        if self._time_outs > usual:
            self._slowness.time_out(inputs, size)

    def state(self) -> dict[str, list[float | None]]:
        """What is known, for ``restored``, as JSON allows it."""
        slow, density = self._slowness, self._density
        known = {
            "inputs": (self._inputs.passed, self._inputs.refused, self._inputs.stated),
            "tokens": (self._tokens.passed, self._tokens.refused, self._tokens.stated),
            "density": (density.usual, density.likely, density.calls),
            "slowness": (slow.inputs, slow.size, slow.passed, slow.probe_after),
            "calls": (self._passed_since,),
        }
        return {name: [None if x == inf else x for x in values] for name, values in known.items()}

    @classmethod
    def restored(cls, mapping: Mapping[str, Any]) -> "CallSize":
        """From ``state``; a new one when the mapping is not valid."""
        made = cls()
        try:
            inputs, tokens = (Cap(*_numbers(mapping[name], 3)) for name in ("inputs", "tokens"))
            density = Density(*_numbers(mapping["density"], 3))
            slowness = Slowness(*_numbers(mapping["slowness"], 4))
            (passed,) = _numbers(mapping["calls"], 1)
        except (KeyError, TypeError, ValueError):
            return made
        finite = max(inputs.passed, tokens.passed, slowness.passed, slowness.probe_after, passed) < inf
        positive = min(inputs.refused, inputs.stated, tokens.refused, tokens.stated) >= 1
        if finite and positive and 0 < density.usual <= density.likely <= 1:
            made._inputs, made._tokens, made._density, made._slowness = inputs, tokens, density, slowness
            made._passed_since = int(passed)
        return made

    @property
    def _stretch(self) -> int:
        """2 when a larger call is due."""
        return 2 if self._passed_since >= PROBE_AFTER else 1

    def _refused_without_cap(self, inputs: int, size: int) -> None:
        """A refused call without a stated cap has too many inputs or too many tokens: decide which.

        An amount that passed before is not too many. Where both are possible, it is the one with a known cap, else the
        inputs: later calls with as many inputs and other sizes correct a wrong choice.
        """
        tokens = size * self._density.usual
        many, heavy = inputs > self._inputs.passed, size * self._density.likely > self._tokens.passed
        if not many and not heavy:
            self._contradict(size)
        elif many and not (heavy and self._tokens.refused < self._inputs.refused == inf):
            self._inputs.refuse(inputs)
            self._inputs_or_tokens = tokens if heavy else 0.0
        else:
            self._tokens.refuse(tokens)
            if self._inputs_or_tokens:  # that call may have had too many tokens as well
                self._inputs.refused, self._inputs_or_tokens = inf, 0.0

    def _contradict(self, size: int) -> None:
        """A call as large passed before, so these texts are denser. Twice in a row: the provider lowered its cap."""
        self._contradictions += 1
        if self._contradictions == 1 and self._tokens.refused < inf:
            self._density.widen(self._tokens.passed / size)
        else:
            self._inputs.passed = self._tokens.passed = 0.0
            self._tokens.refuse(size * self._density.usual)


def _half(amount: float) -> float:
    """Half, rounded up to a power of two: usual caps are such numbers."""
    return max(1.0, 2.0 ** ceil(log2(amount) - 1))


def _numbers(values: Sequence[float | None], n: int) -> list[float]:
    """``n`` numbers from 0 to 1e15, with infinity for None. Raises ``TypeError``, ``ValueError``."""
    if len(values) != n or not all(x is None or (type(x) in (int, float) and 0 <= x < 1e15) for x in values):
        raise ValueError(values)
    return [inf if x is None else x for x in values]
