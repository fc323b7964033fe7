"""The chat models that are asked for: their state, how many tasks may wait for each, and what calls wait for."""

import asyncio
from collections.abc import Sequence
from math import inf

from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import CircuitOpen
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.status import ModelStatus
from ai_task_processor.providers.circuits import ModelCircuits
from ai_task_processor.providers.limiter import Limiter

#: the most models: names come from tasks
MAX_MODELS = 256
#: part of the slots for a model that was never served, and until it is asked again, seconds
UNPROVEN_SHARE, SHARE_LOOK_S = 4, 0.25


class Model:
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


class Models:
    """``slots``: how many tasks may run at once."""

    def __init__(self, circuits: ModelCircuits, slots: int, clock: Clock) -> None:
        self._circuits = circuits
        self._slots = slots
        self._clock = clock
        self._by_name: dict[str, Model] = {}

    def get(self, name: str) -> Model:
        """The state of a model. Raises ``CircuitOpen`` when there are too many at once."""
        model = self._by_name.pop(name, None) or Model()
        if len(self._by_name) >= MAX_MODELS:
            idle = next((other for other, state in self._by_name.items() if not state.waiting + state.running), None)
            if idle is None:
                raise CircuitOpen("too many models are asked for at once", retry_after_s=1.0)
            del self._by_name[idle]
            self._circuits.forget(idle)
        self._by_name[name] = model
        return model

    def hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""
        hold_s = self._circuits.wait_s(model)
        state, share = self._by_name.get(model), max(1, self._slots // UNPROVEN_SHARE)
        limited = hold_s <= 0 and (state is None or not state.served) and running >= share
        if state is not None:
            state.limited_to = share if limited else 0
        return SHARE_LOOK_S if limited else hold_s

    def problems(self) -> Sequence[Problem]:
        """What tasks in slots wait for, and why no more of them start."""
        waits = "tasks in slots wait for the model"
        found = [
            Problem("paced", f"{waits} {name}: {reason}", ready=True, when="running")
            for name, reason in self.paces().items()
        ]
        for name, model in self._by_name.items():
            if model.between_attempts and not model.running:
                text = f"{waits} {name[:64]}: its last call failed ({model.last_failure}) and is made again"
                found.append(Problem("retrying", text, ready=True, when="running"))
            if model.limited_to and not model.served:
                share = f"at most {model.limited_to} of {self._slots} slots are for the model {name[:64]}"
                found.append(Problem("limited", f"{share}: it answers no calls yet", ready=True, when="paused"))
        return found

    def statuses(self) -> Sequence[ModelStatus]:
        """The calls of each model."""
        paused, paces = self._circuits.held(), self.paces()
        return [
            model.limiter.status(
                name[:64],
                "chat",
                running=model.running,
                waiting=model.waiting,
                waits_because=paces.get(name[:64]),
                paused_because=paused.get(name[:64]),
            )
            for name, model in self._by_name.items()
        ]

    def paces(self) -> dict[str, str]:
        """Why calls of models wait."""
        found = {name: self._pace(name, model) for name, model in self._by_name.items() if model.waiting}
        return {name[:64]: reason for name, reason in found.items() if reason}

    def _pace(self, name: str, model: Model) -> str | None:
        if (hold_s := self._circuits.wait_s(name)) > 0:
            why = self._circuits.held().get(name[:64]) or self._circuits.reason
            return f"{why}, next try in {hold_s:.0f} s"
        return model.limiter.reason(self._clock.monotonic(), 1)

    def why(self, model: str) -> str:
        """Why calls of a model may not start."""
        return self._circuits.held().get(model[:64]) or self._circuits.reason or self.paces().get(model[:64]) or "429s"
