"""``ChatCaller``: chat calls under each model's limiter and circuit, with retries within the slot.

A call waits for its turn, first come first served. A 429 is repeated at the limiter's pace, an outage pauses the
model, and messages that fail while others are served are set aside for a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from math import inf

from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import (
    CallRefused,
    CircuitOpen,
    InvalidAnswer,
    QuotaExhausted,
    RemoteError,
    TaskError,
    Throttled,
    Transient,
)
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Clock, Provider
from ai_task_processor.net.resilience import Retries
from ai_task_processor.net.services import Services
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status import ModelStatus
from ai_task_processor.processors.chat.failed_messages import FailedMessages, key_of
from ai_task_processor.processors.chat.models import Model, Models
from ai_task_processor.providers.circuits import ModelCircuits, Passage
from ai_task_processor.providers.limiter import Call
from ai_task_processor.providers.settings import ModelSettings

#: a longer wait for a model releases the task, seconds
LONGEST_WAIT_S = 20.0
#: nothing but 429s for so long pauses the model, seconds
ONLY_429S_S = 60.0
#: first and longest pause of a model whose account is empty, and for how long a served call counts, seconds
QUOTA_S, SERVED_LATELY_S = (1.0, 300.0), 60.0
#: delay of messages with which a probe failed, so that others can be the next, seconds
GIVE_WAY_S = 1.0
#: characters for a token, roughly, of any language: only for limits by tokens
CHARACTERS_PER_TOKEN = 4

log = get_logger(__name__)


class ChatCaller(Component):
    """``call`` makes one chat call of ``provider``. ``slots``: how many tasks may run at once."""

    name = "chat"

    def __init__(
        self,
        call: Callable[[ChatRequest], Awaitable[ChatAnswer]],
        *,
        provider: str = "unknown",
        circuits: ModelCircuits,
        threshold: int,
        retries: Retries,
        slots: int,
        clock: Clock,
        metrics: Metrics,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self._call = call
        self._provider = provider
        self._circuits = circuits
        self._threshold = threshold
        self._retries = retries
        self._clock = clock
        self._metrics = metrics
        self._opened = opened
        self._models = Models(circuits, slots, clock)
        self._failures = FailedMessages()

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """The model's answer. Raises ``InputRefused`` when it refuses these messages, a ``RemoteError`` otherwise."""
        key = self._admitted(request)
        model, failures, throttled = self._models.get(request.model), 0, False
        served = self._failures.served_before(key, model.served)
        while True:
            try:
                answer = await self._one_call(model, request, key, throttled=throttled)
            except CircuitOpen:
                raise
            except Throttled as error:
                if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                throttled = True
            except CallRefused as error:
                now = self._clock.monotonic()
                raise self._failures.refused(key, error, served, model.served, now) from error
            except RemoteError as error:
                failures += 1
                again_s = self._retries.again_in_s(failures) if error.retryable and not self._paused(request) else None
                if again_s is None:
                    now = self._clock.monotonic()
                    raise self._failures.given_up(key, error, served, model.served, now) from error
                await self._between_attempts(model, error, again_s)
            else:
                self._failures.clear(key)
                return answer

    async def _between_attempts(self, model: Model, error: RemoteError, seconds: float) -> None:
        model.between_attempts += 1
        model.last_failure = str(error)
        try:
            await self._clock.sleep(seconds)
        finally:
            model.between_attempts -= 1

    def _admitted(self, request: ChatRequest) -> bytes:
        """The key of the messages. Raises ``CircuitOpen`` and ``SetAside`` when they must not be sent now."""
        key = key_of(request)
        self._failures.admit(key, self._clock.monotonic())
        if self._paused(request):
            raise self._circuit_open(request.model)
        if self._circuits.probing(request.model) and self._failures.gives_way(key):
            raise CircuitOpen("other messages are the next probe", retry_after_s=GIVE_WAY_S)
        return key

    async def _one_call(self, model: Model, request: ChatRequest, key: bytes, *, throttled: bool) -> ChatAnswer:
        passage, ticket = await self._turn(model, request, throttled=throttled)
        model.running += 1
        learnt = False
        try:
            answer = await self._answer(request)
            learnt = True
            model.limiter.served(self._clock.monotonic(), ticket, answer.limits)
            self._answered(model, passage)
        except Throttled as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                learnt = True
                self._throttled(model, request.model, passage, ticket, error)
            else:
                self._failed(model, passage, error)
            raise
        except RemoteError as error:
            if passage.probe:
                self._failures.probed(key)
            self._failed(model, passage, error)
            raise
        finally:
            if not learnt:
                model.limiter.failed(ticket)
            self._circuits.leave(passage)
            model.running -= 1
            model.changed.set()
            self._metrics.model_pace(request.model, model.limiter.rate)
        return answer

    async def _answer(self, request: ChatRequest) -> ChatAnswer:
        """Make the call. A mistake of the provider is none of the task."""
        try:
            with tracing.call("chat", self._provider, request.model) as span:
                answer: object = await self._call(request)
                if isinstance(answer, ChatAnswer):
                    span.used(answer.usage)
        except (TaskError, RemoteError):
            raise
        except (Exception, SystemExit) as bug:  # the boundary of one call, perhaps of another package's provider
            log.error("model.crashed", model=request.model[:64], exc_info=bug)
            raise Transient(f"the model call failed: {type(bug).__name__}") from bug
        if not isinstance(answer, ChatAnswer):
            raise InvalidAnswer(f"the provider returned {type(answer).__name__} instead of a ChatAnswer")
        return answer

    async def _turn(self, model: Model, request: ChatRequest, *, throttled: bool) -> tuple[Passage, Call]:
        """Wait until the call may start, after those that came before."""
        characters = sum(len(message.content) for message in request.messages)
        tokens = characters // CHARACTERS_PER_TOKEN + (request.max_tokens or 0)
        model.waiting += 1
        try:
            async with model.turn:
                while True:
                    now, hold_s = self._clock.monotonic(), self._circuits.wait_s(request.model)
                    if hold_s > LONGEST_WAIT_S:
                        raise self._circuit_open(request.model)
                    if not self._circuits.probing(request.model):
                        hold_s = max(hold_s, model.limiter.wait_s(now, tokens))
                    if hold_s <= 0:
                        passage = self._circuits.enter(request.model)
                        return passage, model.limiter.begin(now, tokens, repeated=throttled)
                    if LONGEST_WAIT_S < hold_s < inf:
                        raise CircuitOpen(
                            f"this model is paced: {self._models.why(request.model)}", retry_after_s=hold_s
                        )
                    await self._pause(model, hold_s)
        finally:
            model.waiting -= 1

    async def _pause(self, model: Model, seconds: float) -> None:
        """Until a call of the model ends, or the time is over."""

        async def ring() -> None:
            await self._clock.sleep(seconds)
            model.changed.set()

        model.changed.clear()
        async with asyncio.TaskGroup() as group:
            alarm = None if seconds == inf else group.create_task(ring(), name="chat-alarm")
            await model.changed.wait()
            if alarm is not None:
                alarm.cancel()

    # --- how a call ended

    def _answered(self, model: Model, passage: Passage) -> None:
        paused = self._circuits.resumes_in_s() < inf
        model.served += 1
        model.served_at = self._clock.monotonic()
        model.failures = 0
        self._failures.answered()
        self._circuits.answered(passage)
        self._retries.earn()
        if paused or model.served == 1:
            self._opened()

    def _throttled(self, model: Model, name: str, passage: Passage, ticket: Call, error: Throttled) -> None:
        now = self._clock.monotonic()
        model.limiter.refused(now, ticket, error.retry_after_s)
        self._metrics.model_throttled(name)
        if passage.probe or model.limiter.refused_for_s(now) >= ONLY_429S_S:
            self._circuits.hold(passage, error)
            raise self._circuit_open(name) from error

    def _failed(self, model: Model, passage: Passage, error: RemoteError) -> None:
        """Pause the model after an outage, or when it is configured wrongly."""
        if not passage.own.is_evidence(error):
            return
        if isinstance(error, CallRefused) and error.explained:
            self._circuits.answered(passage)
            return
        lately = self._clock.monotonic() - model.served_at < SERVED_LATELY_S
        if isinstance(error, QuotaExhausted):
            self._circuits.hold(passage, error, bounds=QUOTA_S if lately or passage.probe else None)
            return
        model.failures += 1
        self._circuits.doubt(passage, error)
        if passage.probe:
            self._circuits.failed(passage, error)
        elif model.failures >= self._threshold or (error.pause_s is not None and not isinstance(error, CallRefused)):
            self._circuits.hold(passage, error)

    # --- what others ask

    def hold_s(self) -> float:
        """Seconds until a call of any model may start; 0 when one may now."""
        return self._circuits.wait_s()

    def lane_hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""
        return self._models.hold_s(model, running)

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""
        return self._circuits.resumes_in_s()

    def problems(self) -> Sequence[Problem]:
        return self._models.problems()

    def status(self) -> Mapping[str, object]:
        aside = self._failures.reason()
        return {"chat": {"paused": dict(self._circuits.held()), "paced": self._models.paces(), "set_aside": aside}}

    def models(self) -> Sequence[ModelStatus]:
        """For ``/status``: the calls of each model."""
        return self._models.statuses()

    def _circuit_open(self, model: str) -> CircuitOpen:
        wait_s = self._circuits.wait_s(model)
        return CircuitOpen(f"this model is paused: {self._models.why(model)}", retry_after_s=max(wait_s, 0.1))

    def _paused(self, request: ChatRequest) -> bool:
        return self._circuits.wait_s(request.model) > 0


def chat_caller(
    provider: Provider, services: Services, circuits: ModelCircuits, *, opened: Callable[[], None]
) -> ChatCaller:
    """The chat calls of a provider. ``opened`` is called when a paused model may be used again."""
    model, worker = services.settings[ModelSettings], services.settings.worker
    return ChatCaller(
        provider.complete,
        provider=provider.name,
        circuits=circuits,
        threshold=worker.circuit_breaker_threshold,
        retries=Retries(model.max_retries, model.retry_backoff_factor),
        slots=worker.concurrency_limit,
        clock=services.clock,
        metrics=services.metrics,
        opened=opened,
    )
