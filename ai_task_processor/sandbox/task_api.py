"""The task API as NestJS serves it, with the behaviour of the public upstream.

A PATCH saves the state first and runs the callback afterwards; a callback runs for every ``succeeded`` with a result,
repeated ones included. Attributes switch to the behaviour of other installations.
"""

from collections.abc import Callable
from typing import Final, Literal

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.answers import Response, answer, nest_error, parsed, sent
from ai_task_processor.sandbox.faults import Fault, false_answer
from ai_task_processor.sandbox.tasks import StoredTask, TaskStore

_DTO_KEYS: Final = frozenset({"state", "result"})
_FINAL: Final = (TaskStatus.SUCCEEDED, TaskStatus.FAILED)


class TaskApi:
    """``GET …/pending`` and ``PATCH …/{id}``. The caller checks the bearer token.

    ``callback``: of a task and its result; answers None when it accepts them.
    """

    def __init__(
        self,
        store: TaskStore,
        callback_fault: Callable[[str], Fault | None],
        callback: Callable[[StoredTask, object], Response | None] = lambda *_: None,
    ) -> None:
        self.store = store
        self._callback = callback
        self._callback_fault = callback_fault
        #: how ``?limit=N`` is treated; a strict query check refuses it
        self.limit: Literal["honoured", "ignored", "refused"] = "honoured"
        self.max_body = 10_000_000
        #: ``forbidNonWhitelisted``: a key that the DTO does not know (``error``) is a 400
        self.forbid_unknown_keys = False
        #: 409 for a PATCH of a task that is already final
        self.strict_transitions = False

    def pending(self, limit: str | None = None) -> Response:
        if limit is None or self.limit == "ignored":
            return sent(self.store.listed(None))
        if self.limit == "refused":
            return nest_error(400, ["property limit should not exist"])
        if not limit.isdecimal():
            return nest_error(400, ["limit must be a positive number"])
        return sent(self.store.listed(int(limit)))

    def patch(self, task_id: str, body: bytes, *, answered: bool = True) -> Response:
        """Apply a PATCH; ``answered`` is False when a fault will suppress the answer."""
        if len(body) > self.max_body:
            return nest_error(413, "request entity too large")
        if (task := self.store.find(task_id)) is None:
            return nest_error(404, f"AI task {task_id} not found")
        try:
            fields = parsed(body)
        except ValueError:
            return nest_error(400, "Unexpected token in JSON")
        if not isinstance(fields, dict) or fields.get("state") not in set(TaskStatus):
            return nest_error(400, [f"state must be one of: {', '.join(TaskStatus)}"])
        if self.forbid_unknown_keys and (unknown := sorted(fields.keys() - _DTO_KEYS)):
            return nest_error(400, [f"property {key} should not exist" for key in unknown])
        if self.strict_transitions and task.state in _FINAL:
            return nest_error(409, f"AI task is already {task.state.value}")
        return self._apply(task, fields, answered=answered)

    def _apply(self, task: StoredTask, fields: dict[str, object], *, answered: bool) -> Response:
        """Save, run the callback, answer: in this order, so that the state is saved although a callback raises."""
        result = fields.get("result")
        state = TaskStatus(str(fields["state"]))
        self.store.settle(task, state, result=result, error=fields.get("error"), answered=answered)
        if state is TaskStatus.SUCCEEDED and result is not None:
            if (fault := self._callback_fault(task.id)) is not None:
                return false_answer(fault)
            if (refusal := self._callback(task, result)) is not None:
                return refusal
            task.callbacks += 1
        if answered:
            self.store.acknowledge(task)
        return answer(task.document)
