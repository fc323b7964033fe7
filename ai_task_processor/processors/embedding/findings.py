"""Finds what is at fault when calls of one model fail: the model, the size of a call, or single texts. Pure.

A call that fails for what may be its texts or its size is cut into parts (``Split``). As long as no part is served,
each next one is smaller and from another place: an outage is certain after about log₂ n calls. The first part that is
served shows that the model is well; from then on parts are sent concurrently until the texts at fault are isolated.
"""

from collections.abc import Sequence
from math import inf

from ai_task_processor.core.errors import CallRefused, RemoteError, TimedOut
from ai_task_processor.processors.embedding.waiting import How, Part, Split, Waiting
from ai_task_processor.providers.call_size import MAX_INPUTS, CallSize
from ai_task_processor.providers.refusals import TOO_SLOW

#: from this many failed calls in a row on, the next call is delayed, seconds; tripled with each further failure
DELAYED_FROM, FIRST_DELAY_S = 3, 0.1
#: texts over which the share of those at fault is averaged; the share above which batches are kept small
AT_FAULT_OVER, MANY_AT_FAULT = 100.0, 0.02
#: texts at fault in such a small batch, on average; the smallest batch
AT_FAULT_PER_BATCH, LEAST_INPUTS = 0.4, 4
#: calls that must fail without a reason, and pass in parts, before their size counts as too large: of a size that was
#: never served, and of one that was
RECURS, RECURS_SERVED = 2, 4
#: two sizes within this factor count as equal
NEARLY = 1.25


class Findings:
    """``failures``: calls in a row that failed. More than ``threshold``, the last with one text, are an outage."""

    def __init__(self, size: CallSize, threshold: int) -> None:
        self.failures = 0
        #: may parts be sent concurrently? Not while the model may be down or too slow
        self.concurrent = True
        self._size = size
        self._threshold = threshold
        self._failed_inputs = 0
        self._too_slow = False
        self._most_served, self._most_served_size = 0, 0
        self._at_fault = 0.0
        #: calls that failed without a reason, and all of whose texts were served in smaller ones afterwards
        self._too_large: list[Split] = []

    def served(self, texts: int, size: int = 0) -> None:
        """A call of ``texts`` texts and ``size`` bytes was served."""
        self.concurrent |= self.failures <= 1 and not self._too_slow
        self.settled()
        self._most_served = max(self._most_served, texts)
        self._most_served_size = max(self._most_served_size, size)
        self._at_fault *= 1.0 - min(0.5, texts / AT_FAULT_OVER)
        self._too_large = [whole for whole in self._too_large if whole.inputs > texts]

    def failed(self, texts: int, error: RemoteError, *, trusted: bool) -> float:
        """A call failed; returns the seconds until the next. ``trusted``: the model served a call a moment ago.

        When many texts are at fault, a failed call of several is no evidence against a model that is trusted.
        """
        if trusted and self.many_at_fault and texts > 1:
            return 0.0
        self.failures += 1
        self._failed_inputs = texts
        self._too_slow = is_slow(error) and not self.passes(texts / NEARLY)
        self.concurrent = trusted and self.failures <= 1 and self.passes(texts / NEARLY)
        explained = isinstance(error, CallRefused) and error.too_large
        if self.failures < DELAYED_FROM or is_slow(error) or explained:
            return 0.0
        return FIRST_DELAY_S * 3.0 ** (min(self.failures, 5) - DELAYED_FROM)

    def settled(self) -> None:
        """Reset the count of failures in a row."""
        self.failures = self._failed_inputs = 0

    @property
    def outage_likely(self) -> bool:
        """Have so many calls failed in a row that one more isolated failure means an outage?"""
        return self.failures > self._threshold

    def text_at_fault(self) -> None:
        """One more text, and not the model, was at fault."""
        self._at_fault += 1.0 / AT_FAULT_OVER

    @property
    def many_at_fault(self) -> bool:
        """Are so many texts at fault that large batches rarely pass?"""
        return self._at_fault > MANY_AT_FAULT

    def passes(self, texts: float = inf, size: float = inf) -> bool:
        """Was a call as large served, in texts or (within ``NEARLY``) in bytes?"""
        return texts <= self._most_served or size <= NEARLY * self._most_served_size

    def times_larger(self, part: Part) -> float:
        """Size in relation to the largest served call; 1 when it is not larger."""
        return max(1.0, len(part.texts) / max(1, self._most_served), part.size / max(1, self._most_served_size))

    @property
    def most_inputs(self) -> float:
        """The most texts for a call that is likely to pass."""
        return max(LEAST_INPUTS, int(AT_FAULT_PER_BATCH / self._at_fault)) if self.many_at_fault else inf

    def most_of(self, part: Part) -> int:
        """How many texts of a part should be sent now: 1 when the model seems to be down; see ``Split.most_next``."""
        most = len(part.texts)
        if self.failures >= self._threshold:
            most = 1
        elif self.failures:
            most = min(most, -(-self._failed_inputs // 2))
        elif part.split is not None and part.split.first.largest_served:
            most = min(most, part.split.first.most_next)
        return max(1, most)

    def cut(self, part: Part, error: RemoteError) -> Sequence[Part]:
        """A failed call in parts: halves when its size may be at fault, else four, or what is known to pass."""
        texts, slow = part.texts, is_slow(error)
        pieces = 4 if slow or self.many_at_fault or self.passes(len(texts) / NEARLY) else 2
        if slow and len(texts) <= 2 * LEAST_INPUTS:
            pieces = len(texts)  # each further round costs a whole timeout
        count = -(-len(texts) // pieces)
        limit = error.limit if isinstance(error, CallRefused) else None
        how: How = "slow" if slow else "failed"
        if isinstance(error, CallRefused) and error.too_large:
            how = "too_large"
        if limit is not None and 0 < limit < len(texts):
            count = limit
        elif how == "failed" and self._too_large and len(texts) >= self._too_large[-1].inputs:
            count = min(count, self._too_large[-1].first.largest_served)
        cut: list[list[Waiting]] = [texts[start : start + count] for start in range(0, len(texts), count)]
        split = Split(len(texts), part.size, len(cut), how, limit, part.split)
        split.first.smallest_failed = len(texts)
        return [Part(piece, split) for piece in cut]

    def end_part(self, part: Part, *, served: bool) -> None:
        """A part has ended. Once all parts of a call were served, its size was at fault: ``CallSize`` learns it."""
        split, part.split = part.split, None
        if split is None:
            return
        if served:
            split.first.largest_served = max(split.first.largest_served, len(part.texts))
        for whole in split.ended(served=served):
            if whole.how == "slow":
                self._size.timed_out(whole.inputs, whole.size)
            elif whole.how == "too_large":
                self._size.too_large(whole.inputs, whole.size, whole.limit)
            else:
                self._failed_without_reason(whole)

    def _failed_without_reason(self, whole: Split) -> None:
        """A failure without a reason may be a coincidence: it must recur before a call as large is served."""
        self._too_large.append(whole)
        times = len({id(each.first) for each in self._too_large})
        known = self._size.most_inputs < MAX_INPUTS and whole.inputs > self._most_served
        if known or times >= (RECURS if whole.inputs > self._most_served else RECURS_SERVED):
            for each in sorted(self._too_large, key=lambda each: -each.inputs):
                self._size.too_large(each.inputs, each.size)
            self._too_large.clear()


def is_slow(error: RemoteError) -> bool:
    """Did the call time out, here or at a gateway?"""
    return error.status in TOO_SLOW or isinstance(error, TimedOut)
