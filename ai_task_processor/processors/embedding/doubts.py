"""Texts that failed alone, and what becomes of them: sent again, refused for good, or set aside for a while.

A text that fails alone while others are served is set aside, later and later, and never ends ``failed`` by it. A
refusal ends a text only when it says that it is about the text, or when it came three times while the model served
others in between and afterwards.
"""

from hashlib import blake2b
from math import inf

from ai_task_processor.core.errors import CallRefused, InputRefused, SetAside
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.processors.embedding.findings import Findings
from ai_task_processor.processors.embedding.offenders import Offence, Offenders
from ai_task_processor.processors.embedding.served import SLOW_FACTOR, ServedCalls
from ai_task_processor.processors.embedding.waiting import Line, Part, Texts, Waiting

#: a text that failed in so many calls, the last time alone, is set aside when others were served meanwhile; so many
#: of a fickle model
OFFENCES, OFFENCES_FICKLE = 3, 6
#: refusals without a reason that a text must meet alone, each followed by a served call, before they count against it
REFUSALS = 3
#: A model is fickle that has served a text for which it had failed alone: it is for so long, seconds. Its refusals do
#: not count against a text.
FICKLE_S = 600.0
#: a refusal must be followed by a served call within this, seconds, or thrice the usual call, to count against its text
WITNESSED_S = 2.0
#: texts this close to the shortest that was refused as too long go alone
NEARLY_TOO_LONG = 0.8

log = get_logger(__name__)


class Doubts:
    """The doubts about one model's texts. ``waiting``: they failed alone, until the model is seen to serve others."""

    def __init__(
        self, model: str, texts: Texts, line: Line, findings: Findings, served: ServedCalls, clock: Clock
    ) -> None:
        self.waiting: list[Waiting] = []
        self.offenders = Offenders()
        self._model = model[:64]
        self._texts = texts
        self._line = line
        self._findings = findings
        self._served = served
        self._clock = clock
        self._fickle_until = self._wavers_until = -inf
        self._longest_served, self._shortest_too_long = 0, inf

    def goes_alone(self, waiting: Waiting) -> bool:
        """Has the model failed for this text, or is it about as long as one that was refused as too long?"""
        return waiting.size >= NEARLY_TOO_LONG * self._shortest_too_long or self.offence(waiting) is not None

    def offence(self, waiting: Waiting) -> Offence | None:
        """What the text has done before, when it is one that the model fails for again and again."""
        return self.offenders.get(offence_key(waiting.text)) if len(self.offenders) else None

    def is_known(self, waiting: Waiting) -> bool:
        """Was it set aside before?"""
        offence = self.offence(waiting)
        return offence is not None and offence.times > 0

    # --- others are served, or the text is

    def passed(self, part: Part, size: int) -> None:
        """A call of these texts, of so many bytes, was served."""
        self._longest_served = max(self._longest_served, *[waiting.size for waiting in part.texts])
        if len(part.texts) == 1 and size >= self._shortest_too_long:
            self._shortest_too_long = inf

    def acquit(self, waiting: Waiting) -> None:
        """The text has its vector."""
        if len(self.offenders):
            self.offenders.clear(offence_key(waiting.text))
        if waiting.alone:
            self._fickle_until = self._clock.monotonic() + FICKLE_S
        if waiting.refused_alone:
            self._wavers_until = self._clock.monotonic() + FICKLE_S

    def resolve(self, began_at: float) -> None:
        """A call that began then was served: those in doubt are sent once more, and in the end they were at fault."""
        now = self._clock.monotonic()
        longest_s = max(WITNESSED_S, SLOW_FACTOR * self._served.usual_s)
        doubted, self.waiting = self.waiting, []
        for waiting in doubted:
            if waiting.failed_at > began_at:
                self.waiting.append(waiting)
            elif waiting.refused_alone < REFUSALS:
                self._send_alone(waiting)
            elif now - waiting.failed_at > longest_s:
                waiting.refused_alone -= 1  # the last refusal says nothing: the model may have been ill until now
                self._send_alone(waiting)
            elif now < self._wavers_until:
                self._set_aside(waiting, "the model refuses this text, and it has served what it refused before")
            else:
                self._findings.blame()
                self._refuse(waiting, waiting.final or InputRefused("input_refused", "the model refuses this text"))

    # --- the text failed alone

    def believes(self, waiting: Waiting, error: CallRefused) -> bool:
        """Does the refusal say enough by itself? Not that a text is too long when one as long was served."""
        return error.explained and not (error.too_large and waiting.size <= self._longest_served)

    def refused(self, waiting: Waiting, final: InputRefused, *, too_long: bool) -> None:
        """In words that are believed."""
        if too_long:
            self._shortest_too_long = min(self._shortest_too_long, waiting.size)
        else:
            self._findings.blame()
        self._refuse(waiting, final)

    def refused_without_reason(self, waiting: Waiting, final: InputRefused) -> None:
        """``final`` is what it ends with when that comes often enough."""
        waiting.refused_alone, waiting.final = waiting.refused_alone + 1, final
        self.waiting.append(waiting)

    def failed_beside_others(self, waiting: Waiting, reason: str) -> None:
        """The model is well and fails for this text: again, alone, and then it is set aside for a while."""
        fickle = self._clock.monotonic() < self._fickle_until
        if waiting.failures >= (OFFENCES_FICKLE if fickle else OFFENCES) or self.is_known(waiting):
            self._set_aside(waiting, reason)
        else:
            self._send_alone(waiting)

    def _send_alone(self, waiting: Waiting) -> None:
        self._line.add_parts([Part([waiting], lone=True)])

    def _refuse(self, waiting: Waiting, final: InputRefused) -> None:
        if len(self.offenders):
            self.offenders.clear(offence_key(waiting.text))
        self._texts.send_away([waiting], final)

    def _set_aside(self, waiting: Waiting, reason: str) -> None:
        delay_s = self.offenders.again(offence_key(waiting.text), self._clock.monotonic(), reason)
        log.warning("text.set_aside", model=self._model, reason=reason, seconds=delay_s)
        self._findings.blame()
        self._texts.send_away([waiting], SetAside(f"set aside: {reason}", retry_after_s=delay_s))


def offence_key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
