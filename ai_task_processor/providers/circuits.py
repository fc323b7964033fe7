"""The circuit breakers of one provider: one for each model, and one for the provider when several models fail."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import inf

from ai_task_processor.core.errors import CircuitOpen, ModelRefused, RemoteError
from ai_task_processor.core.ports import Clock
from ai_task_processor.net.resilience import BreakerMetrics, Entry, Gate, State

SERVICE = "model"
#: delay of a model that was the last probe, so that another one can be the next, seconds
GIVE_WAY_S = 1.0


class ModelCircuits:
    """One ``Gate`` for each model, and one for the provider.

    The provider is paused when a second model is, or when calls of several models fail and none is served. Then one
    probe at a time is sent, each of another model: the first that is served ends the pause for all.
    To the rest of the daemon this is a single gate: ``service``, by default ``model``.
    """

    def __init__(self, *, threshold: int, clock: Clock, metrics: BreakerMetrics, service: str = SERVICE) -> None:
        self.service = service
        self._threshold = threshold
        self._clock = clock
        self._metrics = metrics
        self._states: dict[str | None, State] = {}
        self._shown = ""
        self._models: dict[str, Gate] = {}
        self._provider = self._gate(None)
        #: models that were the probe since the pause began, and those of them that were delayed for others
        self._probed: set[str] = set()
        self._gave_way: set[str] = set()
        #: by model that is not paused: calls that failed since one was served
        self._failures: Counter[str] = Counter()
        self._answered_at = -inf
        #: when each paused model was paused first, in the order of time
        self._held_at: dict[str, float] = {}

    def _gate(self, model: str | None) -> Gate:
        return Gate(self.service, threshold=self._threshold, clock=self._clock, metrics=_Shown(self._show, model))

    def _show(self, model: str | None, state: State) -> None:
        """The metric shows the worst state of all gates."""
        self._states[model] = state
        worst = self.state
        if worst != self._shown:
            self._shown = worst
            self._metrics.breaker(self.service, worst)

    @property
    def state(self) -> State:
        states = self._states.values()
        return "open" if "open" in states else "half-open" if "half-open" in states else "closed"

    @property
    def reason(self) -> str | None:
        """Why some model is paused; None when none is."""
        if self._provider.reason is not None:
            return self._provider.reason
        held = self.held()
        return None if not held else "; ".join(f"{model}: {reason}" for model, reason in list(held.items())[:3])

    def held(self) -> Mapping[str, str]:
        """The paused models, and why they are."""
        return {model[:64]: gate.reason for model, gate in self._models.items() if gate.reason is not None}

    def wait_s(self, model: str | None = None) -> float:
        """Seconds until a call of this model may start, or of any model at all."""
        wait_s = 0.0 if self._provider.reason is None else self._provider.wait_s()
        gate = None if model is None else self._models.get(model)
        return wait_s if gate is None or gate.reason is None else max(wait_s, gate.wait_s())

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""
        waits = [gate.wait_s() for gate in self._models.values() if gate.reason is not None]
        return max(min(waits, default=inf), self._provider.wait_s())

    def due(self) -> None:
        """End every wait: the next call of each model is tried at once, because the cause may be gone."""
        for gate in (self._provider, *self._models.values()):
            gate.due()

    def probing(self, model: str) -> bool:
        """Would the next call of this model be a probe?"""
        gate = self._models.get(model)
        return self._provider.reason is not None or (gate is not None and gate.reason is not None)

    def forget(self, model: str) -> None:
        """Drop the state of a model that is not used any more."""
        self._models.pop(model, None)
        self._states.pop(model, None)
        self._held_at.pop(model, None)
        self._failures.pop(model, None)
        self._probed.discard(model)
        self._gave_way.discard(model)

    def enter(self, model: str) -> "Passage":
        """A call of this model begins. Raises ``CircuitOpen`` when it may not."""
        gate = self._models.get(model)
        if gate is None:
            gate = self._models[model] = self._gate(model)
        if self._provider.reason is not None and self._provider.wait_s() <= 0:
            self._give_way(model, self._provider.reason)
        own = gate.enter()
        try:
            return Passage(model, gate, own, self._provider.enter())
        except CircuitOpen:
            gate.leave(own)
            raise

    def _give_way(self, model: str, reason: str) -> None:
        """Delay a model that was the last probe once, so that another one can be the next, if there is one."""
        if model in self._probed and model not in self._gave_way and len(self._models) > 1:
            self._gave_way.add(model)
            raise CircuitOpen(f"another model is the next probe: {reason}", retry_after_s=GIVE_WAY_S)
        if model in self._probed:
            self._probed.clear()
        self._gave_way.clear()

    def leave(self, passage: "Passage") -> None:
        passage.gate.leave(passage.own)
        self._provider.leave(passage.shared)

    def answered(self, passage: "Passage") -> None:
        """A call was served."""
        self._answered_at = self._clock.monotonic()
        self._failures.clear()
        passage.gate.answered(passage.own)
        if passage.gate.reason is None:
            self._held_at.pop(passage.model, None)
        if self._provider.reason is not None:
            self._provider.answered(passage.shared)
            if not self._provider.reason:
                self._probed.clear()
                self._gave_way.clear()
                self.due()

    def failed(self, passage: "Passage", error: RemoteError) -> None:
        """A call failed, and the model or the provider is at fault, not the texts."""
        passage.gate.failed(passage.own, error)
        self._conclude(passage, error)

    def hold(self, passage: "Passage", error: RemoteError, *, bounds: tuple[float, float] | None = None) -> None:
        """Pause a model after enough failures. ``bounds``: see ``Gate.hold``."""
        passage.gate.hold(passage.own, error, bounds=bounds)
        self._conclude(passage, error)

    def doubt(self, passage: "Passage", error: RemoteError) -> None:
        """Count a failed call, whatever its reason; many in a row, of several models, are the provider's fault."""
        if isinstance(error, ModelRefused):
            return  # that the provider does not serve one model is no evidence about the others
        self._failures[passage.model] += 1
        if self._failures.total() >= self._threshold and len(self._failures) > 1 and self._provider.reason is None:
            self._provider.hold(passage.shared, error)

    def _conclude(self, passage: "Passage", error: RemoteError) -> None:
        """Pause the provider when a second model is paused and none was served since the first was."""
        if passage.shared.probe:
            self._probed.add(passage.model)
            self._provider.failed(passage.shared, error)
        if passage.gate.reason is not None:
            self._failures.pop(passage.model, None)
        if passage.gate.reason is None or passage.model in self._held_at or isinstance(error, ModelRefused):
            return
        before = next(reversed(self._held_at.values()), None)
        self._held_at[passage.model] = self._clock.monotonic()
        if before is not None and self._answered_at < before and self._provider.reason is None:
            self._provider.hold(passage.shared, error)


class Passage:
    """A call that both gates have admitted."""

    __slots__ = ("gate", "model", "own", "shared")

    def __init__(self, model: str, gate: Gate, own: Entry, shared: Entry) -> None:
        self.model = model
        self.gate = gate
        self.own = own
        self.shared = shared

    @property
    def probe(self) -> bool:
        """Does it show whether the model, or the provider, is well again?"""
        return self.own.probe or self.shared.probe


class _Shown:
    def __init__(self, show: Callable[[str | None, State], None], model: str | None) -> None:
        self._show = show
        self._model = model

    def breaker(self, service: str, state: State) -> None:  # noqa: ARG002 - they are all gates of one service
        self._show(self._model, state)
