"""What a processor may use of the daemon."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ai_task_processor.core import codec
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Clock
from ai_task_processor.core.settings import Settings
from ai_task_processor.models.task import Embedded
from ai_task_processor.net.services import Services
from ai_task_processor.ops.metrics import Metrics


class Embedder(Protocol):
    """Embeds one text; texts of many tasks are joined into micro-batches."""

    async def embed(self, text: str, model: str) -> Embedded:
        """Raises ``InputRefused`` when the model refuses this text, a ``RemoteError`` otherwise."""

    def hold_s(self) -> float:
        """Seconds until a call of any model may start; 0 when one may now."""

    def lane_hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""


class Chat(Protocol):
    """Chat calls, paced and repeated within the limits of each model."""

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """The model's answer, complete or not. ``request.model``: the provider's name for it.

        Raises ``InputRefused`` when the model refuses these messages, a ``RemoteError`` otherwise.
        """

    def hold_s(self) -> float:
        """Seconds until a call of any model may start; 0 when one may now."""

    def lane_hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""


class Steps(Protocol):
    """Calls inside a task whose answers are stored, so that a crash or a retry does not make them again."""

    async def run(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of ``call``, an async function without arguments: ``await steps.run("outline", call)``.

        The answer is JSON, pydantic models welcome, and returned as JSON reads it (a tuple becomes a list). It is
        committed before this returns. In a later attempt at the same task with the same content, and for the same name
        in this one, it is returned without a call. So the name says everything that the call depends on beside the
        content: its number, the model, a digest of the prompt. What ``call`` raises is raised, and nothing is stored.

        For use in ``process`` and the asyncio tasks that it starts, also at once under different names. Steps of a task
        are erased with its outcome, or after a week in which it was not worked on.

        An answer over 1 MiB, or over 8 MiB for the task in all, is returned and not stored (``step.not_stored`` in the
        log). So is any while the disk cannot be written: its call may be made again. Raises ``Transient`` when earlier
        answers cannot be read: the task is released. Raises ``ValueError`` for an answer that is not JSON, and for a
        name that is empty, has more than 200 bytes or is not Unicode.
        """


class UnstoredSteps:
    """``Steps`` outside the daemon (unit tests): every call is made, and its answer read as JSON."""

    async def run(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ARG002 - nothing is stored
        return json.loads(codec.dumps(await call()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorContext:
    """Given to every processor before its first task.

    ``settings[AGroup]`` has the groups that the processor declares in ``settings_groups``. ``embedder`` and ``chat``
    are None when no model is configured for them; ``chat`` also when no processor says ``chats``. ``chat_is_mock``: its
    answers are made up. ``steps`` stores the answers of a task's calls. ``services`` (None in some tests) make HTTP
    clients and circuits for remotes of a processor's own. ``model_aliases`` maps the names that tasks use to the
    provider's. ``wait_s`` is how long a processor may wait for a remote before it should release its task: a little
    less than ``TASK_TIMEOUT``.
    """

    clock: Clock
    settings: Settings
    metrics: Metrics
    wait_s: float
    embedder: Embedder | None = None
    chat: Chat | None = None
    steps: Steps = field(default_factory=UnstoredSteps)
    chat_is_mock: bool = False
    services: Services | None = None
    default_model: str = "text-embedding-3-small"
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    result_as_object: bool = False

    @property
    def patience_s(self) -> float:
        """The former name of ``wait_s``."""
        return self.wait_s


#: the former name
Kit = ProcessorContext
