"""The calls of one model: makes each one, and decides what follows from its outcome.

After a failure that may be about texts they are sent in parts (``findings.py``), at last one by one
(``failed_texts.py``). A failure that is not about texts (no connection, a key, a quota) pauses the model.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from ai_task_processor.core.errors import (
    Ambiguous,
    CallRefused,
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    QuotaExhausted,
    RemoteError,
    Throttled,
    TimedOut,
    Transient,
    Unauthorized,
)
from ai_task_processor.core.ports import Clock, Embeddings
from ai_task_processor.models.task import Embedded, Usage
from ai_task_processor.net.resilience import Retries
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.failed_texts import FailedTexts, text_key
from ai_task_processor.processors.embedding.findings import Findings, is_slow
from ai_task_processor.processors.embedding.served import TRUSTED_S, ServedCalls
from ai_task_processor.processors.embedding.vector_length import VectorLength
from ai_task_processor.processors.embedding.waiting import Line, Part, Texts, Waiting
from ai_task_processor.providers.call_size import CallSize
from ai_task_processor.providers.circuits import ModelCircuits, Passage
from ai_task_processor.providers.limiter import Limiter

#: after so long with nothing but 429s the tasks of a model are released, seconds
ONLY_429S_S = 60.0
#: first and longest pause, seconds, after an exhausted quota; and how recently a call was served for these to hold
QUOTA_S, SERVED_LATELY_S = (1.0, 300.0), 60.0

log = get_logger(__name__)

#: cached: a frozen object takes longer to build than to find
usage_of = lru_cache(maxsize=1024)(Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the calls of all models share.

    ``call`` makes one, of ``provider``; ``opened`` is called when a model is well again.
    """

    call: Callable[[Sequence[str], str], Awaitable[Embeddings]]
    provider: str = "unknown"
    circuits: ModelCircuits
    threshold: int
    retries: Retries
    cache: VectorCache | None
    clock: Clock
    metrics: Metrics
    opened: Callable[[], None] = lambda: None


@dataclass(slots=True, eq=False)
class Running:
    """A call under way; ``slow_at``: when it starts to count as abnormally slow. ``probe``: was the model paused?

    ``witnessed``: was the daemon's own text sent because it hangs? ``given_up``: it was cancelled because it hangs.
    """

    part: Part
    began_at: float
    slow_at: float
    probe: bool = False
    task: asyncio.Task[None] | None = None
    witnessed: bool = False
    given_up: bool = False


class Calls:
    """The calls of one model. ``not_before``: no call starts earlier, after failures (monotonic, seconds)."""

    def __init__(
        self, model: str, tools: Tools, texts: Texts, line: Line, *, size: CallSize, length: VectorLength, known: bool
    ) -> None:
        """``known``: an earlier process was served by this model."""
        self.model = model
        self.limiter = Limiter()
        self.size = size
        self.length = length
        self.served = ServedCalls(known=known)
        self.findings = Findings(size, tools.threshold)
        self.failed_texts = FailedTexts(model, texts, line, self.findings, self.served, tools.clock)
        self.running: list[Running] = []
        #: answers that wait until the length of the model's vectors is known
        self.held: list[tuple[Part, Embeddings]] = []
        self.answered_at, self.answered_tasks = 0.0, 0
        self.not_before = 0.0
        self.refused_share = False
        #: the last probe was a text of a task, which may have been at fault: the next one is the daemon's own
        self.witness_is_next = False
        self._tools = tools
        self._texts = texts
        self._line = line

    def well(self) -> bool:
        """Has the model served calls, lately if some have failed since, and does none hang?"""
        now = self._tools.clock.monotonic()
        if not self.served.ever or self._tools.circuits.probing(self.model):
            return False
        if self.findings.failures and not self.served.lately(now):
            return False
        hung = any(call.slow_at <= now and self.served.at < call.began_at for call in self.running)
        return not hung and self.limiter.refused_for_s(now) < TRUSTED_S

    def begin(self, part: Part) -> Running:
        """Count the part as a call under way; ``run`` must follow."""
        now = self._tools.clock.monotonic()
        call = Running(part, now, self.served.slow_at(now), self._tools.circuits.probing(self.model))
        self.running.append(call)
        return call

    def hangs(self, call: Running) -> bool:
        """Has it taken far longer than any that was served?"""
        if call.part.texts[0].witness:
            return False
        hangs_after_s = self.served.hangs_after_s(self.findings.times_larger(call.part))
        return self._tools.clock.monotonic() - call.began_at >= hangs_after_s

    def give_up(self, call: Running) -> None:
        """Cancel it; it ends like a timeout."""
        if call.task is not None and not call.given_up:
            call.given_up = True
            call.task.cancel()

    async def run(self, call: Running) -> None:
        """Make one call and handle its outcome; a bug fails the texts of this call only."""
        error: Exception | None = Texts.stopped()
        try:
            await self._attempt(call)
            error = None
        except (Exception, SystemExit) as bug:  # the boundary of one call, perhaps of another package's provider
            log.error("model.crashed", model=self.model[:64], exc_info=bug)
            error = Transient(f"the model call failed: {type(bug).__name__}")
        finally:
            self.running.remove(call)
            if error is not None:
                self._texts.fail(call.part.texts, error)
                self.findings.end_part(call.part, served=False)

    async def _attempt(self, call: Running) -> None:
        tools, part = self._tools, call.part
        try:
            passage = tools.circuits.enter(self.model)
        except CircuitOpen as held:
            self._line.put_back(part)
            self.not_before = tools.clock.monotonic() + min(held.retry_after_s or 0.0, 1.0)
            return
        size, rate = part.size, self.limiter.rate
        throttled = any(waiting.throttled for waiting in part.texts)
        ticket, learnt = self.limiter.begin(call.began_at, self.size.tokens(size), repeated=throttled), False
        tools.metrics.batch(model=self.model, size=len(part.texts))
        try:
            try:
                answer = await self._answer(call)
                learnt = True
                self.limiter.served(tools.clock.monotonic(), ticket, answer.limits)
                self._check_length(answer)
            except Throttled as error:
                if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    learnt = True
                    self.limiter.refused(tools.clock.monotonic(), ticket, error.retry_after_s)
                raise
            self._answered(call, passage, answer, size)
        except InputRefused as error:
            # From a provider of a plug-in: handled like any refusal, since the text need not be at fault.
            self._failed(part, passage, CallRefused(str(error), final=error))
        except RemoteError as error:
            self._failed(part, passage, error)
        finally:
            if not learnt:
                self.limiter.failed(ticket)
            tools.circuits.leave(passage)
            if self.limiter.rate != rate:
                tools.metrics.model_pace(self.model, self.limiter.rate)

    async def _answer(self, call: Running) -> Embeddings:
        texts = call.part.texts
        try:
            with tracing.call("embeddings", self._tools.provider, self.model, texts) as span:
                answer = await self._tools.call([waiting.text for waiting in texts], self.model)
                span.used(answer.usage)
                return answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not call.given_up or task is None or task.uncancel():
                raise
            seconds = round(self._tools.clock.monotonic() - call.began_at, 1)
            log.warning("call.given_up", model=self.model[:64], texts=len(call.part.texts), seconds=seconds)
            raise TimedOut(f"no answer within {seconds:g} s while others were served") from None

    # --- it was served

    def _check_length(self, answer: Embeddings) -> None:
        """Raises ``InvalidAnswer`` when no vector has the length that this model's have, or none is agreed on."""
        self.length.seen(answer.vectors)
        length = self.length.length
        if self.length.undecided:
            raise InvalidAnswer(
                "the model answers vectors of different lengths in turn (EMBEDDING_DIMENSIONS says what is right)"
            )
        if length is not None and all(vector is None or vector.dimensions != length for vector in answer.vectors):
            raise InvalidAnswer(
                f"the model answered vectors of another length than {length} (EMBEDDING_DIMENSIONS says what is right)"
            )

    def _answered(self, call: Running, passage: Passage, answer: Embeddings, size: int) -> None:
        now, part = self._tools.clock.monotonic(), call.part
        tokens = answer.usage.prompt_tokens
        self.not_before = 0.0
        self.served.add(call.began_at, now)
        self.answered_at = now
        self.answered_tasks = sum([len(waiting.futures) for waiting in part.texts])
        self.findings.served(len(part.texts), size)
        self._tools.circuits.answered(passage)
        self._tools.retries.earn()
        self.size.passed(len(part.texts), size, tokens)
        self.failed_texts.passed(part, size)
        self._hand_out(part, answer)
        self.failed_texts.resolve(call.began_at)
        if self.refused_share and self.well():
            self.refused_share = False
            self._tools.opened()

    def _hand_out(self, part: Part, answer: Embeddings) -> None:
        self.held.append((part, answer))
        if self.length.length is not None:
            held, self.held = self.held, []
            for earlier, its_answer in held:
                self._settle(earlier, its_answer, self.length.length)

    def _settle(self, part: Part, answer: Embeddings, length: int) -> None:
        tokens, cache, size = answer.usage.prompt_tokens, self._tools.cache, part.size
        unusable: list[Waiting] = []
        for waiting, vector in zip(part.texts, answer.vectors, strict=True):
            if vector is None or vector.dimensions != length:
                unusable.append(waiting)
                continue
            share = round(tokens * waiting.size / (size or 1))
            if cache is not None and not waiting.witness:
                cache.put(waiting.key, vector.data, share)
            self.failed_texts.cleared(waiting)
            self._texts.answer(waiting, Embedded(vector, usage_of(share)))
        self.findings.end_part(part, served=not unusable)
        for waiting in unusable:
            self._note_failure(waiting, isolated=len(part.texts) == 1, slow=False)
            self.failed_texts.failed_beside_others(waiting, "the model answered an unusable vector")

    # --- it failed

    def _failed(self, part: Part, passage: Passage, error: RemoteError) -> None:
        if not passage.own.is_evidence(error):
            self._line.put_back(part)
        elif isinstance(error, Throttled) and error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self._throttled(part, passage, error)
        elif isinstance(error, QuotaExhausted):
            lately = self._tools.clock.monotonic() - self.served.at < SERVED_LATELY_S
            self._hold(part, passage, error, bounds=QUOTA_S if lately or passage.probe else None)
        elif self._may_be_the_texts(error):
            self._failed_for_content(part, passage, error)
        else:
            self._tools.circuits.doubt(passage, error)
            self.findings.failed(len(part.texts), error, trusted=False)
            self._again_or_hold(part, passage, error)

    def _may_be_the_texts(self, error: RemoteError) -> bool:
        """Could the model serve other texts? After it served calls, also for refusals of the key or configuration."""
        if isinstance(error, CallRefused | Transient | Ambiguous):
            return True
        if isinstance(error, Unauthorized):
            return error.status == HTTPStatus.FORBIDDEN and self.served.count > 0
        return isinstance(error, Misconfigured) and self.served.count > 0

    def _throttled(self, part: Part, passage: Passage, error: Throttled) -> None:
        """429: the limiter knows how long to wait. Tasks are released only when nothing but 429s is answered."""
        self._tools.metrics.model_throttled(self.model)
        if passage.probe or self.limiter.refused_for_s(self._tools.clock.monotonic()) >= ONLY_429S_S:
            self._hold(part, passage, error)
            return
        for waiting in part.texts:
            waiting.throttled = True
        self._line.put_back(part)

    def _again_or_hold(self, part: Part, passage: Passage, error: RemoteError) -> None:
        """The remote was not reached or cannot answer now: retry after a backoff, or pause the model."""
        outage = self.findings.failures >= self._tools.threshold
        if error.pause_s is not None or passage.probe or outage:
            self._hold(part, passage, error)
            return
        again_s = self._tools.retries.again_in_s(self.findings.failures) if error.retryable else None
        if again_s is None:
            self._texts.fail(part.texts, error)
            self.findings.end_part(part, served=False)
        else:
            self.not_before = self._tools.clock.monotonic() + again_s
            self._line.put_back(part)

    def _hold(
        self, part: Part, passage: Passage, error: RemoteError, *, bounds: tuple[float, float] | None = None
    ) -> None:
        """Pause the model: the tasks that wait are released, to run again when the pause is over."""
        circuits = self._tools.circuits
        if passage.probe and bounds is None:
            circuits.failed(passage, error)
        else:
            circuits.hold(passage, error, bounds=bounds)
        self.not_before = 0.0
        paused = CircuitOpen(f"this model is paused: {error}", retry_after_s=max(circuits.wait_s(self.model), 0.1))
        self.witness_is_next = passage.probe and not part.texts[0].witness and self._may_be_the_texts(error)
        if self.witness_is_next:
            self.failed_texts.set_aside.probed(text_key(part.texts[0].text), str(error))
        self._texts.fail(part.texts, paused)
        self.findings.end_part(part, served=False)
        self._line.fail_all(paused)
        self.findings.settled()

    def _failed_for_content(self, part: Part, passage: Passage, error: RemoteError) -> None:
        """The texts, their size or the model may be at fault: send parts, or decide about a single text."""
        if not (isinstance(error, CallRefused) and error.explained):
            self._tools.circuits.doubt(passage, error)
        part.texts = self._texts.wanted(part.texts)
        if not part.texts:
            self.findings.end_part(part, served=False)
        elif passage.probe:
            self._hold(part, passage, error)
        else:
            isolated, now = len(part.texts) == 1, self._tools.clock.monotonic()
            beside = any(waiting.failures and self.served.count > waiting.served_before for waiting in part.texts)
            if not beside and not (isolated and isinstance(error, CallRefused) and error.explained):
                self.not_before = now + self.findings.failed(len(part.texts), error, trusted=self.served.lately(now))
            for waiting in part.texts:
                self._note_failure(waiting, isolated=isolated, slow=is_slow(error))
            if isolated:
                self._isolated_failed(part, passage, error, beside=beside)
            else:
                self._tools.metrics.batch_isolated()
                self._line.add_parts(self.findings.cut(part, error))

    def _note_failure(self, waiting: Waiting, *, isolated: bool, slow: bool) -> None:
        """``slow``: it was not answered in time. An isolated timeout counts twice, because each one takes so long."""
        waiting.failures += 1 + (isolated and slow)
        waiting.isolated |= isolated
        waiting.failed_at = self._tools.clock.monotonic()
        waiting.served_before = self.served.count

    def _isolated_failed(self, part: Part, passage: Passage, error: RemoteError, *, beside: bool) -> None:
        """An isolated text failed. ``beside``: others were served since it failed before."""
        waiting = part.texts[0]
        final = error.final if isinstance(error, CallRefused) else None
        self.findings.end_part(part, served=False)
        if waiting.witness:
            self._witness_failed(part, passage, error)
        elif isinstance(error, CallRefused) and final is not None and self.failed_texts.ends_text(waiting, error):
            self.failed_texts.refused(waiting, final, too_long=error.too_large)
        elif self.findings.outage_likely and not beside:
            self._hold(part, passage, _nothing_is_served(error))
        elif final is not None:
            self.failed_texts.refused_without_reason(waiting, final)
        elif beside or self.failed_texts.was_set_aside(waiting):
            self.failed_texts.failed_beside_others(waiting, str(error))
        elif self.served.lately(self._tools.clock.monotonic()):
            self.failed_texts.waiting.append(waiting)
        else:
            self._again_or_hold(part, passage, error)

    def _witness_failed(self, part: Part, passage: Passage, error: RemoteError) -> None:
        """The daemon's own text is not at fault: when it is refused, the request is."""
        if isinstance(error, CallRefused):
            self._hold(part, passage, _nothing_is_served(error))
        else:
            self._again_or_hold(part, passage, error)


def _nothing_is_served(error: RemoteError) -> RemoteError:
    if isinstance(error, CallRefused):
        return CallRefused("every text is refused: the request is at fault, not the texts", status=error.status)
    return error
