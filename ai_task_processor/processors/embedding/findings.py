"""What the failed calls of one model have shown: is it the model, the size of a call, or single texts? Pure.

A call that fails for what may be its texts or its size is cut into parts (``Split``). As long as no part is served,
each next one is smaller and from another place: an outage is clear after about log₂ n calls. The first part that is
served shows that the model is well; from then on parts go out side by side until the texts at fault are alone.
"""

from collections.abc import Sequence
from math import inf

from ai_task_processor.core.errors import CallRefused, RemoteError, TimedOut
from ai_task_processor.processors.embedding.waiting import How, Part, Split, Waiting
from ai_task_processor.providers.call_size import MAX_INPUTS, CallSize
from ai_task_processor.providers.refusals import TOO_SLOW

#: after so many calls in a row that failed the next one waits, seconds; three times as long after each further one:
#: what fails everywhere may pass in a second
PATIENT_FROM, BETWEEN_FAILURES_S = 3, 0.1
#: the share of texts at fault, over about so many texts; above it batches are kept small enough to pass
AT_FAULT_OVER, SPOILT = 100.0, 0.02
#: texts at fault in a batch then, on average; and no batch becomes smaller than this
GOOD_COMPANY, LEAST_TOGETHER = 0.4, 4
#: so many calls of a size must fail without a reason, and pass in parts, before it is too large: of a size that was
#: never served, and of one that was
SUSPECTED, SUSPECTED_SERVED = 2, 4
#: what is larger than what was served by so little is about as large
NEARLY = 1.25


class Findings:
    """``failures``: calls in a row that failed. ``threshold``: so many, the last with one text, are an outage."""

    def __init__(self, size: CallSize, threshold: int) -> None:
        self.failures = 0
        #: may parts go out side by side? Not while the model may be down, or too slow for more
        self.side_by_side = True
        self._size = size
        self._threshold = threshold
        self._failed_texts = 0
        self._too_slow = False
        self._most_served, self._most_served_size = 0, 0
        self._at_fault = 0.0
        #: calls that failed without a reason, and all of whose texts were served in smaller ones afterwards
        self._too_large: list[Split] = []

    def served(self, texts: int, size: int = 0) -> None:
        """A call of so many texts, of so many bytes, was served."""
        self.side_by_side |= self.failures <= 1 and not self._too_slow
        self.settled()
        self._most_served = max(self._most_served, texts)
        self._most_served_size = max(self._most_served_size, size)
        self._at_fault *= 1.0 - min(0.5, texts / AT_FAULT_OVER)
        self._too_large = [whole for whole in self._too_large if whole.inputs > texts]

    def failed(self, texts: int, error: RemoteError, *, trusted: bool) -> float:
        """A call failed; answers the seconds before the next. ``trusted``: the model was served a moment ago.

        Where many texts are at fault, a call of several that fails says little of a model that is trusted.
        """
        if trusted and self.spoilt and texts > 1:
            return 0.0
        self.failures += 1
        self._failed_texts = texts
        self._too_slow = is_slow(error) and not self.passes(texts / NEARLY)
        self.side_by_side = trusted and self.failures <= 1 and self.passes(texts / NEARLY)
        explained = isinstance(error, CallRefused) and error.too_large
        if self.failures < PATIENT_FROM or is_slow(error) or explained:
            return 0.0
        return BETWEEN_FAILURES_S * 3.0 ** (min(self.failures, 5) - PATIENT_FROM)

    def settled(self) -> None:
        """What has failed so far says nothing any more."""
        self.failures = self._failed_texts = 0

    @property
    def conclusive(self) -> bool:
        """Have so many calls failed in a row that one more text that fails alone means an outage?"""
        return self.failures > self._threshold

    def blame(self) -> None:
        """One more text was at fault and not the model."""
        self._at_fault += 1.0 / AT_FAULT_OVER

    @property
    def spoilt(self) -> bool:
        """Are so many texts at fault that large batches hardly ever pass?"""
        return self._at_fault > SPOILT

    def passes(self, texts: float = inf, size: float = inf) -> bool:
        """Has a call been served that was as large, in texts or about so in bytes?"""
        return texts <= self._most_served or size <= NEARLY * self._most_served_size

    def times_larger(self, part: Part) -> float:
        """How many times as large as the largest call that was served; 1 for what is no larger."""
        return max(1.0, len(part.texts) / max(1, self._most_served), part.size / max(1, self._most_served_size))

    @property
    def most_inputs(self) -> float:
        """The most texts for a call that is likely to pass."""
        return max(LEAST_TOGETHER, int(GOOD_COMPANY / self._at_fault)) if self.spoilt else inf

    def most_of(self, part: Part) -> int:
        """How many texts of a part should be sent now.

        One text decides when the model seems to be down. Once parts are served, the others are no larger than those.
        """
        most = len(part.texts)
        if self.failures >= self._threshold:
            most = 1
        elif self.failures:
            most = min(most, -(-self._failed_texts // 2))
        elif part.split is not None and part.split.first.largest_served:
            most = min(most, part.split.first.most_next)
        return max(1, most)

    def cut(self, part: Part, error: RemoteError) -> Sequence[Part]:
        """A failed call in parts: halves when its size may be at fault, else four, or what is known to pass."""
        texts, slow = part.texts, is_slow(error)
        pieces = 4 if slow or self.spoilt or self.passes(len(texts) / NEARLY) else 2
        if slow and len(texts) <= 2 * LEAST_TOGETHER:
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
        """A part has ended. What was cut teaches how large a call may be, once all of it was served."""
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
                self._suspect(whole)

    def _suspect(self, whole: Split) -> None:
        """A failure without a reason may be a bad moment: it must come again before a call as large is served."""
        self._too_large.append(whole)
        times = len({id(each.first) for each in self._too_large})
        known = self._size.most_inputs < MAX_INPUTS and whole.inputs > self._most_served
        if known or times >= (SUSPECTED if whole.inputs > self._most_served else SUSPECTED_SERVED):
            for each in sorted(self._too_large, key=lambda each: -each.inputs):
                self._size.too_large(each.inputs, each.size)
            self._too_large.clear()


def is_slow(error: RemoteError) -> bool:
    """Did the call take too long, for us or for somebody on the way?"""
    return error.status in TOO_SLOW or isinstance(error, TimedOut)
