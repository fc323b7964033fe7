"""``context.steps``: the answers of calls inside a task are stored before they are used; none is paid for twice.

The running attempt is a context variable: it follows the code of the processor into the tasks that it starts
(``asyncio.TaskGroup``, ``create_task``, ``to_thread``), and concurrent tasks do not see each other's.
"""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.core.errors import OutboxUnwritable, Transient
from ai_task_processor.core.ports import StepStore
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.models.task import Task
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: the largest answer that is stored, and the most for one task, bytes of JSON
MAX_ANSWER_BYTES, MAX_TASK_BYTES = 2**20, 2**23
#: bytes of a step's name
MAX_NAME = 200

log = get_logger(__name__)


class _Answers:
    """The answers of one attempt, made with its first step. ``stored``: by name; None until they are loaded."""

    def __init__(self, task: Task) -> None:
        self.task_id = task.id
        self.fingerprint = codec.fingerprint([task.type, task.content])
        self.stored: dict[str, bytes] | None = None
        self.loading = asyncio.Lock()
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.bytes = 0
        self.reported = False


class Attempt:
    """One attempt at a task, as a context manager around its processor. Its steps end with it."""

    __slots__ = ("_answers", "_task", "_token", "over")

    def __init__(self, task: Task) -> None:
        self._task = task
        self._answers: _Answers | None = None
        self.over = False

    def __enter__(self) -> None:
        self._token: Token[Attempt | None] = _ATTEMPT.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        _ATTEMPT.reset(self._token)

    @property
    def answers(self) -> _Answers:
        if self._answers is None:
            self._answers = _Answers(self._task)
        return self._answers


_ATTEMPT: ContextVar[Attempt | None] = ContextVar("_ATTEMPT", default=None)


class TaskSteps:
    """``processors.context.Steps`` with answers in a store."""

    def __init__(self, store: StepStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._condition = Condition("steps.failed", "steps.restored", logging.ERROR)

    async def run(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """See ``processors.context.Steps``."""
        attempt = _ATTEMPT.get()
        if attempt is None or attempt.over:
            raise RuntimeError("context.steps can be used only while a processor works on a task")
        if not 0 < len(name.encode()) <= MAX_NAME:
            raise ValueError(f"the name of a step has 1 to {MAX_NAME} bytes")
        answers = attempt.answers
        async with answers.loading:
            if answers.stored is None:
                answers.stored = dict(await self._load(answers))
                answers.bytes = sum(map(len, answers.stored.values()))
        async with answers.locks[name]:
            answer, outcome = answers.stored.get(name), "replayed"
            if answer is None:
                answer, outcome = codec.dumps(await call()), "run"
                if not attempt.over:
                    await self._save(answers, answers.stored, name, answer)
        self._metrics.step(outcome)
        return json.loads(answer)

    async def erase(self, task_id: str) -> None:
        """Forget the steps of a task that another owner has now. While the disk fails they stay until they expire."""
        try:
            await self._store.erase(task_id)
        except RAISED as error:  # the boundary of one commit
            self._failed(error)

    async def _load(self, answers: _Answers) -> Mapping[str, bytes]:
        try:
            return await self._store.load(answers.task_id, answers.fingerprint)
        except RAISED as error:  # the boundary of one read
            self._failed(error)
            # To make the calls again would pay for them twice: the task is released until the disk works.
            raise Transient("the answers of earlier calls cannot be read from the disk") from error

    async def _save(self, answers: _Answers, stored: dict[str, bytes], name: str, answer: bytes) -> None:
        if len(answer) > MAX_ANSWER_BYTES or answers.bytes + len(answer) > MAX_TASK_BYTES:
            if not answers.reported:
                log.warning("step.not_stored", task_id=answers.task_id, bytes=len(answer), of_task=answers.bytes)
            answers.reported = True
            return
        stored[name] = answer
        answers.bytes += len(answer)
        try:
            await self._store.save(answers.task_id, answers.fingerprint, name, answer)
        except RAISED as error:  # the boundary of one commit: the answer is used without
            self._failed(error)
        else:
            self._condition.note(None)

    def _failed(self, error: BaseException) -> None:
        """The store failed, whatever it raised. Raises only what ends this task: a cancellation."""
        raise_cancellation(error)
        self._condition.note(str(error) if isinstance(error, OutboxUnwritable) else type(error).__name__)
