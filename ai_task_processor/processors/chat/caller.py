"""``ChatCaller``: chat calls under each model's limiter and circuit, with retries within the slot.

A call waits for its turn, first come first served. A 429 is repeated at the limiter's pace, an outage pauses the
model, and messages that fail while others are served are set aside for a while.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from math import inf

from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import (
    Ambiguous,
    CallRefused,
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    QuotaExhausted,
    RemoteError,
    SetAside,
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
from ai_task_processor.providers.circuits import ModelCircuits, Passage
from ai_task_processor.providers.limiter import Call, Limiter
from ai_task_processor.providers.set_aside import SetAsideTexts
from ai_task_processor.providers.settings import ModelSettings

#: the most models: names come from tasks
MAX_MODELS = 256
#: a longer wait for a model releases the task, seconds
LONGEST_WAIT_S = 20.0
#: nothing but 429s for so long pauses the model, seconds
ONLY_429S_S = 60.0
#: first and longest pause of a model whose account is empty, and for how long a served call counts, seconds
QUOTA_S, SERVED_LATELY_S = (1.0, 300.0), 60.0
#: part of the slots for a model that was never served, and until it is asked again, seconds
UNPROVEN_SHARE, SHARE_LOOK_S = 4, 0.25
#: refusals of the same messages, while others are served, that are final
REFUSED_AT = 3
#: the most messages that are stored because they failed while no others were served
MAX_FAILED = 10_000
#: delay of messages with which a probe failed, so that others can be the next, seconds
GIVE_WAY_S = 1.0
#: characters for a token, roughly, of any language: only for limits by tokens
CHARACTERS_PER_TOKEN = 4

log = get_logger(__name__)


class _Model:
    """The state of one model. ``served``: calls so far; ``failures``: calls that failed since one was served."""

    def __init__(self) -> None:
        self.limiter = Limiter()
        self.turn = asyncio.Lock()
        self.changed = asyncio.Event()
        self.waiting = 0
        self.running = 0
        self.served = 0
        self.served_at = -inf
        self.failures = 0
        #: slots for its tasks, when some were refused because of that; 0 when none were lately
        self.limited_to = 0
        #: tasks that wait between two attempts, and why the last attempt failed
        self.between_attempts, self.last_failure = 0, ""


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
        self._slots = slots
        self._clock = clock
        self._metrics = metrics
        self._opened = opened
        self._models: dict[str, _Model] = {}
        self._set_aside = SetAsideTexts()
        #: by messages that failed: how many calls of the model had been served before their first failure
        self._failed_at: dict[bytes, int] = {}
        #: messages with which a probe failed
        self._probes: set[bytes] = set()

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """The model's answer. Raises ``InputRefused`` when it refuses these messages, a ``RemoteError`` otherwise."""
        key = self._admitted(request)
        model, failures, throttled = self._model(request.model), 0, False
        served = min(model.served, self._failed_at.get(key, model.served))
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
                raise self._refused(model, key, error, served) from error
            except RemoteError as error:
                failures += 1
                again_s = self._retries.again_in_s(failures) if error.retryable and not self._paused(request) else None
                if again_s is None:
                    raise self._given_up(model, key, error, served) from error
                await self._between_attempts(model, error, again_s)
            else:
                self._set_aside.clear(key)
                self._failed_at.pop(key, None)
                return answer

    async def _between_attempts(self, model: _Model, error: RemoteError, seconds: float) -> None:
        model.between_attempts += 1
        model.last_failure = str(error)
        try:
            await self._clock.sleep(seconds)
        finally:
            model.between_attempts -= 1

    def _admitted(self, request: ChatRequest) -> bytes:
        """The key of the messages. Raises ``CircuitOpen`` and ``SetAside`` when they must not be sent now."""
        key = _key(request)
        aside = self._set_aside.get(key)
        if aside is not None and (left_s := aside.until - self._clock.monotonic()) > 0:
            raise SetAside(f"its messages fail while others are served: {aside.reason}", retry_after_s=left_s)
        if self._paused(request):
            raise self._circuit_open(request.model)
        if key in self._probes and self._circuits.probing(request.model):
            self._probes.discard(key)  # others are the probe first, if there are any
            raise CircuitOpen("other messages are the next probe", retry_after_s=GIVE_WAY_S)
        return key

    async def _one_call(self, model: _Model, request: ChatRequest, key: bytes, *, throttled: bool) -> ChatAnswer:
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
            if passage.probe and len(self._probes) < MAX_FAILED:
                self._probes.add(key)
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

    async def _turn(self, model: _Model, request: ChatRequest, *, throttled: bool) -> tuple[Passage, Call]:
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
                        raise CircuitOpen(f"this model is paced: {self._why(request.model)}", retry_after_s=hold_s)
                    await self._pause(model, hold_s)
        finally:
            model.waiting -= 1

    async def _pause(self, model: _Model, seconds: float) -> None:
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

    def _answered(self, model: _Model, passage: Passage) -> None:
        paused = self._circuits.resumes_in_s() < inf
        model.served += 1
        model.served_at = self._clock.monotonic()
        model.failures = 0
        self._probes.clear()
        self._circuits.answered(passage)
        self._retries.earn()
        if paused or model.served == 1:
            self._opened()

    def _throttled(self, model: _Model, name: str, passage: Passage, ticket: Call, error: Throttled) -> None:
        now = self._clock.monotonic()
        model.limiter.refused(now, ticket, error.retry_after_s)
        self._metrics.model_throttled(name)
        if passage.probe or model.limiter.refused_for_s(now) >= ONLY_429S_S:
            self._circuits.hold(passage, error)
            raise self._circuit_open(name) from error

    def _failed(self, model: _Model, passage: Passage, error: RemoteError) -> None:
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

    def _refused(self, model: _Model, key: bytes, error: CallRefused, served: int) -> Exception:
        """400 and the like. Without a reason these messages count as the cause only while others are served."""
        aside = self._set_aside.get(key)
        again = aside is not None and aside.times >= REFUSED_AT - 1 and model.served > served
        if error.final is not None and (error.explained or again):
            self._set_aside.clear(key)
            self._failed_at.pop(key, None)
            return error.final
        return self._given_up(model, key, error, served)

    def _given_up(self, model: _Model, key: bytes, error: RemoteError, served: int) -> RemoteError:
        """Set the messages aside when others were served meanwhile: then the model is well."""
        if not isinstance(error, Transient | Ambiguous | CallRefused):
            return error
        if model.served <= served:
            while len(self._failed_at) >= MAX_FAILED:
                del self._failed_at[next(iter(self._failed_at))]
            self._failed_at[key] = served
            return error
        delay_s = self._set_aside.again(key, self._clock.monotonic(), str(error))
        return SetAside(f"its messages fail while others are served: {error}", retry_after_s=delay_s)

    # --- what others ask

    def hold_s(self) -> float:
        """Seconds until a call of any model may start; 0 when one may now."""
        return self._circuits.wait_s()

    def lane_hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""
        hold_s = self._circuits.wait_s(model)
        state, share = self._models.get(model), max(1, self._slots // UNPROVEN_SHARE)
        limited = hold_s <= 0 and (state is None or not state.served) and running >= share
        if state is not None:
            state.limited_to = share if limited else 0
        return SHARE_LOOK_S if limited else hold_s

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""
        return self._circuits.resumes_in_s()

    def problems(self) -> Sequence[Problem]:
        """What tasks in slots wait for, and why no more of them start."""
        waits = "tasks in slots wait for the model"
        found = [
            Problem("paced", f"{waits} {name}: {reason}", ready=True, when="running")
            for name, reason in self._paces().items()
        ]
        for name, model in self._models.items():
            if model.between_attempts and not model.running:
                text = f"{waits} {name[:64]}: its last call failed ({model.last_failure}) and is made again"
                found.append(Problem("retrying", text, ready=True, when="running"))
            if model.limited_to and not model.served:
                share = f"at most {model.limited_to} of {self._slots} slots are for the model {name[:64]}"
                found.append(Problem("limited", f"{share}: it answers no calls yet", ready=True, when="paused"))
        return found

    def status(self) -> Mapping[str, object]:
        aside = self._set_aside.reason()
        return {"chat": {"paused": dict(self._circuits.held()), "paced": self._paces(), "set_aside": aside}}

    def models(self) -> Sequence[ModelStatus]:
        """For ``/status``: the calls of each model."""
        paused, paces = self._circuits.held(), self._paces()
        return [
            model.limiter.status(
                name[:64],
                "chat",
                running=model.running,
                waiting=model.waiting,
                waits_because=paces.get(name[:64]),
                paused_because=paused.get(name[:64]),
            )
            for name, model in self._models.items()
        ]

    def _paces(self) -> dict[str, str]:
        found = {name: self._pace(name, model) for name, model in self._models.items() if model.waiting}
        return {name[:64]: reason for name, reason in found.items() if reason}

    def _pace(self, name: str, model: _Model) -> str | None:
        if (hold_s := self._circuits.wait_s(name)) > 0:
            why = self._circuits.held().get(name[:64]) or self._circuits.reason
            return f"{why}, next try in {hold_s:.0f} s"
        return model.limiter.reason(self._clock.monotonic(), 1)

    def _circuit_open(self, model: str) -> CircuitOpen:
        wait_s = self._circuits.wait_s(model)
        return CircuitOpen(f"this model is paused: {self._why(model)}", retry_after_s=max(wait_s, 0.1))

    def _why(self, model: str) -> str:
        return self._circuits.held().get(model[:64]) or self._circuits.reason or self._paces().get(model[:64]) or "429s"

    def _paused(self, request: ChatRequest) -> bool:
        return self._circuits.wait_s(request.model) > 0

    def _model(self, name: str) -> _Model:
        model = self._models.pop(name, None) or _Model()
        if len(self._models) >= MAX_MODELS:
            idle = next((other for other, state in self._models.items() if not state.waiting + state.running), None)
            if idle is None:
                raise CircuitOpen("too many models are asked for at once", retry_after_s=1.0)
            del self._models[idle]
            self._circuits.forget(idle)
        self._models[name] = model
        return model


def _key(request: ChatRequest) -> bytes:
    """Of the messages. Raises ``InputRefused`` for what is no Unicode."""
    try:
        parts = [request.model.encode()]
        parts += [f"{message.role}\n{message.content}".encode() for message in request.messages]
    except UnicodeEncodeError as error:
        raise InputRefused("invalid_text", "the text is not valid Unicode") from error
    return hashlib.sha256(b"\0".join(parts)).digest()


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
