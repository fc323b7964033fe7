"""Reports outcomes, and sets the bare states that marks need."""

from collections.abc import Mapping

from ai_task_processor.core import codec
from ai_task_processor.core.errors import Ambiguous, Rejected, Unacknowledged
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.models.task import Completed, Outcome, TaskStatus
from ai_task_processor.net.resilience import Gate
from ai_task_processor.sources.rest.answers import Acknowledgements
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.task_requests import TaskRequests


class Reports:
    """Each report goes through ``gate``."""

    def __init__(self, profile: RestProfile, requests: TaskRequests, gate: Gate) -> None:
        self.bodies = Bodies(profile.report)
        self._profile = profile
        self._requests = requests
        self._gate = gate
        self._bare_failures = False
        self._acknowledgements = Acknowledgements()
        #: tasks whose last report had no clear answer
        self._unclear: set[str] = set()

    async def send(self, task_id: str, outcome: Outcome) -> TaskStatus:
        """Report an outcome; returns its state. Raises ``Rejected`` and ``RemoteError``.

        A strict API refuses unknown keys: then failures are reported without ``error`` from now on.
        """
        (reported, body), failed = self.bodies.reported(outcome), self.bodies.bare_failure
        state = TaskStatus.SUCCEEDED if isinstance(reported, Completed) else TaskStatus.FAILED
        bare = self._bare_failures and state is TaskStatus.FAILED and failed is not None
        sent = failed if bare and failed is not None else body
        try:
            await self._gate.call(lambda: self._deliver(task_id, state, sent), about=task_id)
        except Rejected as error:
            if bare or failed is None or state is TaskStatus.SUCCEEDED or error.status not in (400, 422):
                raise
            await self._gate.call(lambda: self._deliver(task_id, state, failed), about=task_id)
            self._bare_failures = True
        return state

    async def set_state(self, task_id: str, state: TaskStatus) -> None:
        """Mark a task, reset its mark, or repeat its final state."""
        claim, part, words = self._profile.claim, self._profile.report, self._profile.states.words()
        method, path = part.method, part.path
        if state is TaskStatus.PENDING or state is TaskStatus.IN_PROGRESS:
            assert claim is not None  # noqa: S101 - without it there are no marks
            method, path = claim.method or method, claim.path or path
            body = codec.line(claim.mark if state is TaskStatus.IN_PROGRESS else claim.unmark)
        else:
            # A late mark may have overwritten a final state, which is repeated without its result.
            body = codec.line({keys(self._profile.fields.state or "/state")[-1]: words[state]})
        read = part.reread if part.check_first and state is not TaskStatus.IN_PROGRESS else None

        async def change() -> None:
            if read is None or await self._state_at(read, task_id) == words[TaskStatus.IN_PROGRESS]:
                await self._requests.set_state(task_id, state, body, method, path)

        await self._gate.call(change, about=task_id)

    async def _deliver(self, task_id: str, state: TaskStatus, body: bytes) -> None:
        """Report an outcome. Repetitions are bounded, because each one may run a callback of the upstream again."""
        part = self._profile.report
        read = part.reread if part.check_first or task_id in self._unclear else None
        if read is not None and await self._is_reported(read, task_id, state, body):
            self._unclear.discard(task_id)
            return
        try:
            await self._requests.set_state(task_id, state, body, part.method, part.path)
        except Ambiguous as error:
            self._unclear.add(task_id)
            if part.reread is None or not await self._is_reported(part.reread, task_id, state, body):
                if isinstance(error, Unacknowledged):
                    raise self._acknowledgements.missing(task_id, error) from error
                raise
        self._unclear.discard(task_id)
        self._acknowledgements.arrived(task_id)

    async def _is_reported(self, path: str, task_id: str, state: TaskStatus, body: bytes) -> bool:
        """Whether the API has this outcome already. Raises ``Rejected`` (``lost``) when others have ended the task."""
        document, words = await self._requests.document(path, task_id), self._profile.states.words()
        found = self._state(document)
        if found == words[state] and _has(document, codec.loads(body)):
            return True
        if found not in (words[TaskStatus.PENDING], words.get(TaskStatus.IN_PROGRESS)):
            raise Rejected("lost")
        return False

    async def _state_at(self, path: str, task_id: str) -> object:
        return self._state(await self._requests.document(path, task_id))

    def _state(self, document: object) -> object:
        return resolve(document, keys(self._profile.fields.state or ""))


def _has(document: object, sent: object) -> bool:
    """Whether a task has everything that was sent; keys that the API does not show do not count."""
    if not isinstance(document, Mapping) or not isinstance(sent, Mapping):
        return document == sent
    return all(document[key] == value or value == "" for key, value in sent.items() if key in document)
