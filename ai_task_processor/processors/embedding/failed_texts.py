"""Decides about texts that failed in isolation (in a call of their own): send again, refuse for good, or set aside.

A text that fails while others are served is set aside for longer each time, and never ends ``failed`` by that. A
refusal ends a text only when it says that it is about the text, or when it came three times while the model served
others in between and afterwards.
"""

from hashlib import blake2b
from math import inf

from ai_task_processor.core.errors import CallRefused, InputRefused, SetAside
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.processors.embedding.findings import Findings
from ai_task_processor.processors.embedding.served import SLOW_FACTOR, ServedCalls
from ai_task_processor.processors.embedding.waiting import Line, Part, Texts, Waiting
from ai_task_processor.providers.set_aside import AtFault, SetAsideTexts

#: failed calls, the last one isolated, before a text is set aside while others are served; of an unreliable model
FAILURES, FAILURES_UNRELIABLE = 3, 6
#: isolated refusals without a reason, each followed by a served call, before a text is refused for good
REFUSALS = 3
#: A model counts as unreliable this long after it served a text that had failed in isolation, seconds. Its refusals
#: without a reason do not end a text.
UNRELIABLE_S = 600.0
#: a refusal counts only when a call is served within this after it, seconds, or three times the usual call
CONFIRMED_WITHIN_S = 2.0
#: texts of this share of the shortest that was refused as too long are isolated
NEARLY_TOO_LONG = 0.8

log = get_logger(__name__)


class FailedTexts:
    """The texts of one model that failed in isolation. ``waiting``: those that wait until another call is served."""

    def __init__(
        self, model: str, texts: Texts, line: Line, findings: Findings, served: ServedCalls, clock: Clock
    ) -> None:
        self.waiting: list[Waiting] = []
        self.set_aside = SetAsideTexts()
        self._model = model[:64]
        self._texts = texts
        self._line = line
        self._findings = findings
        self._served = served
        self._clock = clock
        self._unreliable_until = self._refusals_unreliable_until = -inf
        self._longest_served, self._shortest_too_long = 0, inf

    def must_isolate(self, waiting: Waiting) -> bool:
        """Must it be isolated: is it known to fail, or about as long as a text that was refused as too long?"""
        return waiting.size >= NEARLY_TOO_LONG * self._shortest_too_long or self.known_failures(waiting) is not None

    def known_failures(self, waiting: Waiting) -> AtFault | None:
        """Its earlier failures, when it was set aside or was a failed probe."""
        return self.set_aside.get(text_key(waiting.text)) if len(self.set_aside) else None

    def was_set_aside(self, waiting: Waiting) -> bool:
        """Was it set aside before?"""
        known = self.known_failures(waiting)
        return known is not None and known.times > 0

    # --- others are served, or the text is

    def passed(self, part: Part, size: int) -> None:
        """A call of these texts, of ``size`` bytes, was served."""
        self._longest_served = max(self._longest_served, *[waiting.size for waiting in part.texts])
        if len(part.texts) == 1 and size >= self._shortest_too_long:
            self._shortest_too_long = inf

    def cleared(self, waiting: Waiting) -> None:
        """The text was served: it is not at fault."""
        if len(self.set_aside):
            self.set_aside.clear(text_key(waiting.text))
        if waiting.isolated:
            self._unreliable_until = self._clock.monotonic() + UNRELIABLE_S
        if waiting.refusals:
            self._refusals_unreliable_until = self._clock.monotonic() + UNRELIABLE_S

    def resolve(self, began_at: float) -> None:
        """A call that began then was served: texts that failed before are sent again, or found to be at fault."""
        now = self._clock.monotonic()
        longest_s = max(CONFIRMED_WITHIN_S, SLOW_FACTOR * self._served.usual_s)
        doubted, self.waiting = self.waiting, []
        for waiting in doubted:
            if waiting.failed_at > began_at:
                self.waiting.append(waiting)
            elif waiting.refusals < REFUSALS:
                self._send_isolated(waiting)
            elif now - waiting.failed_at > longest_s:
                waiting.refusals -= 1  # the last refusal does not count: the model may have been down until now
                self._send_isolated(waiting)
            elif now < self._refusals_unreliable_until:
                self._set_aside(waiting, "the model refuses this text, and it has served what it refused before")
            else:
                self._findings.text_at_fault()
                self._refuse(waiting, waiting.final or InputRefused("input_refused", "the model refuses this text"))

    # --- the text failed in isolation

    def ends_text(self, waiting: Waiting, error: CallRefused) -> bool:
        """Does this one refusal end the text? "Too long" does not when a text as long was served."""
        return error.explained and not (error.too_large and waiting.size <= self._longest_served)

    def refused(self, waiting: Waiting, final: InputRefused, *, too_long: bool) -> None:
        """It was refused, and ``ends_text`` is true of the refusal."""
        if too_long:
            self._shortest_too_long = min(self._shortest_too_long, waiting.size)
        else:
            self._findings.text_at_fault()
        self._refuse(waiting, final)

    def refused_without_reason(self, waiting: Waiting, final: InputRefused) -> None:
        """``final`` is what the text ends with after ``REFUSALS`` of these."""
        waiting.refusals, waiting.final = waiting.refusals + 1, final
        self.waiting.append(waiting)

    def failed_beside_others(self, waiting: Waiting, reason: str) -> None:
        """It failed while others were served: it is sent again in isolation, and at last set aside."""
        unreliable = self._clock.monotonic() < self._unreliable_until
        if waiting.failures >= (FAILURES_UNRELIABLE if unreliable else FAILURES) or self.was_set_aside(waiting):
            self._set_aside(waiting, reason)
        else:
            self._send_isolated(waiting)

    def _send_isolated(self, waiting: Waiting) -> None:
        self._line.add_parts([Part([waiting], isolated=True)])

    def _refuse(self, waiting: Waiting, final: InputRefused) -> None:
        if len(self.set_aside):
            self.set_aside.clear(text_key(waiting.text))
        self._texts.fail([waiting], final)

    def _set_aside(self, waiting: Waiting, reason: str) -> None:
        delay_s = self.set_aside.again(text_key(waiting.text), self._clock.monotonic(), reason)
        log.warning("text.set_aside", model=self._model, reason=reason, seconds=delay_s)
        self._findings.text_at_fault()
        self._texts.fail([waiting], SetAside(f"set aside: {reason}", retry_after_s=delay_s))


def text_key(text: str) -> bytes:
    """A hash of 16 bytes of a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
