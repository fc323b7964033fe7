"""What a processor may use of the daemon."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorContext:
    """Given to every processor before its first task.

    ``settings[AGroup]`` has the groups that the processor declares in ``settings_groups``. ``embedder`` and ``chat``
    are None when no model is configured for them; ``chat`` also when no processor says ``chats``. ``chat_is_mock``: its
    answers are made up. ``services`` (None in some tests) make HTTP clients and circuits for remotes of a processor's
    own. ``model_aliases`` maps the names that tasks use to the provider's. ``wait_s`` is how long a processor may wait
    for a remote before it should release its task: a little less than ``TASK_TIMEOUT``.
    """

    clock: Clock
    settings: Settings
    metrics: Metrics
    wait_s: float
    embedder: Embedder | None = None
    chat: Chat | None = None
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
