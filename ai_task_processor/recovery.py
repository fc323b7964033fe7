"""After a crash: what was under way runs alone before anything else, and what keeps killing us is set aside.

One task can end the process (a library that dumps core, memory that runs out), and would do so again
after every start. A kill from outside ends it as well, and no task is to blame. So the tasks that were
under way when the process died run one at a time, with nothing beside them: who survives that is
innocent, and who kills the process three times alone is quarantined, for an operator to look at.

Chance must not convict anybody. A task that was alone at a death waits for some quiet before it is
alone again: whoever kills at random hits the quiet and not the task.
"""

from ai_task_processor.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.logs import get_logger
from ai_task_processor.models.task import Record, Suspect, Task, TaskStatus
from ai_task_processor.ports import Clock, Journal, Outbox, SkipReason

QUARANTINE_AT = 3
#: seconds after the start before a task runs alone that died alone never, once, twice
QUIET_S = (0.0, 5.0, 15.0)
LOOK_AGAIN_S = 0.1
#: So long after that the suspects run like everybody else: those that were there for one death, and for more. With
#: many slots and slow models one at a time takes minutes, and a list can be too long to find them in. Who is guilty
#: will be there for the next death, too, and each time fewer others stand before him.
PATIENCE_S = (60.0, 180.0)

log = get_logger(__name__)


class Recovery:
    """Says who may start while there are suspects in the journal."""

    def __init__(self, journal: Journal, outbox: Outbox, *, clock: Clock) -> None:
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._began_at = clock.monotonic()
        #: how many suspects there were, when, and which of them were due
        self._looked: tuple[int, float, set[str]] | None = None

    async def begin(self) -> None:
        """Sort what the journal brought; to be called once, before the first poll.

        Raises ``DataDirectoryError`` when who is to be quarantined cannot be: it must not be started again.
        """
        self._began_at, self._looked = self._clock.monotonic(), None
        for task_id, suspect in list(self._journal.suspects.items()):
            if self._outbox.holds(task_id, suspect.fingerprint):
                self._journal.settle(task_id)
            elif suspect.tries.kills_alone >= QUARANTINE_AT:
                await self._quarantine(task_id, suspect)
        if self._journal.suspects:
            log.warning("recovery.started", tasks=len(self._journal.suspects))

    @property
    def alone(self) -> bool:
        """Is nothing to run now but one suspect?"""
        return self._journal.alone is not None or bool(self._journal.suspects and self._due())

    def refuse(self, task: Task) -> SkipReason | None:
        """Why this task must not start now, or None when nothing here speaks against it."""
        if not self._journal.suspects:
            return None
        due = self._due()
        admitted = task.id in due if due else task.id not in self._journal.suspects
        return None if admitted else "deferred"

    def not_listed(self) -> None:
        """A poll brought none of the suspects that were due: they are gone, or cannot be processed now.

        Those that are still marked at the source are not listed yet.
        """
        for task_id in self._due() - set(self._journal.marked):
            self._journal.acquit(task_id)
        self._looked = None

    def _due(self) -> set[str]:
        """Who is to run alone now. It is asked for every listed task: looked up again after a while, or a change."""
        age_s, count = self._clock.monotonic() - self._began_at, len(self._journal.suspects)
        if self._looked is None or self._looked[0] != count or age_s - self._looked[1] >= LOOK_AGAIN_S:
            self._looked = count, age_s, self._look(age_s)
        return self._looked[2]

    def _look(self, age_s: float) -> set[str]:
        due = set()
        for task_id, suspect in list(self._journal.suspects.items()):
            quiet_s = QUIET_S[min(suspect.tries.kills_alone, 2)]
            if age_s > quiet_s + PATIENCE_S[suspect.tries.kills > 1]:
                self._journal.acquit(task_id)
            elif age_s >= quiet_s:
                due.add(task_id)
        return due

    async def _quarantine(self, task_id: str, suspect: Suspect) -> None:
        now = self._clock.now().timestamp()
        reason = f"the process died {suspect.tries.kills_alone} times while this task ran alone"
        record = Record(
            task_id=task_id,
            task_type=suspect.task_type,
            status=TaskStatus.PENDING,
            fingerprint=suspect.fingerprint,
            finished_at=now,
            due_at=now,
            attempts=suspect.tries.started,
            reason=reason,
        )
        try:
            await self._outbox.quarantine(record)
        except OutboxUnwritable as error:
            raise DataDirectoryError(str(error)) from error
        self._journal.settle(task_id)
        log.error("task.quarantined", task_id=task_id, task_type=suspect.task_type, reason=reason)
