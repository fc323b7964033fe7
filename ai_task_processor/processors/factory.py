"""ProcessorFactory: finds the processor of a task among the built-ins and those of installed packages."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from itertools import chain
from math import inf

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.settings import PartsSettings, Settings
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.aletheia.processor import AletheiaProcessor
from ai_task_processor.processors.chat.conversation import ConversationProcessor
from ai_task_processor.processors.chat.processor import PromptProcessor
from ai_task_processor.processors.chat.summary import SummaryProcessor
from ai_task_processor.processors.context import ProcessorContext
from ai_task_processor.processors.embedding.processor import TextEmbeddingProcessor
from ai_task_processor.processors.fetch.processor import FetchProcessor
from ai_task_processor.processors.reminder.processor import ReminderProcessor
from ai_task_processor.processors.search.processor import SearchProcessor
from ai_task_processor.processors.simple import EchoProcessor, SimulateProcessor, SleepProcessor
from ai_task_processor.processors.type_limits import limits_of

#: types of built-ins that are taken when neither ENABLED_TASK_TYPES nor the source names any
USUAL_TYPES = frozenset({TaskType.TEXT_EMBEDDING, *aletheia.TYPES})

log = get_logger(__name__)


class ProcessorFactory:
    """Every processor, built-ins first; the first whose ``can_process`` is true gets the task.

    ``_optional`` are built-ins that leave a type to every other processor that declares it. Built-ins take only the
    types that ``ENABLED_TASK_TYPES`` or the source names, because an API may have others for somebody else.

    Raises ``ConfigurationError`` when an installed processor cannot be loaded: its tasks would stay pending unnoticed.
    """

    def __init__(self) -> None:
        self._processors: list[BaseProcessor] = [
            TextEmbeddingProcessor(),
        ]
        #: those of installed packages
        self.installed = {_made(plugin): plugin for plugin in plugins.installed("processors")}
        self._processors += self.installed
        self._processors.append(PromptProcessor())  # last: the types of others are not taken from them
        self._optional: list[BaseProcessor] = [
            AletheiaProcessor(),
            SummaryProcessor(),
            ConversationProcessor(),
            EchoProcessor(),
            SleepProcessor(),
            SimulateProcessor(),
            SearchProcessor(),
            FetchProcessor(),
            ReminderProcessor(),
        ]
        self._takes: Callable[[str], bool] = lambda _: True
        self._reported: set[tuple[str, str]] = set()
        #: lines about settings, after ``configure``
        self.warnings: list[str] = []
        #: the most tasks at once, by type
        self.limits: Mapping[str, int] = {}

    @property
    def processors(self) -> Sequence[BaseProcessor]:
        """Those that may get a task."""
        return [*self._processors, *(each for each in self._optional if each.task_types)]

    def configure(self, settings: Settings) -> None:
        """Let every processor read what decides its task types. Raises ``ConfigurationError``."""
        taken: dict[str, str] = {}
        if settings.parts.enabled_task_types:
            self._takes = settings.parts.takes
        gives = _gives(settings.parts, settings.usual_types)
        if not gives(TaskType.TEXT_EMBEDDING):
            self._processors = [each for each in self._processors if type(each) is not TextEmbeddingProcessor]
        for processor in self._processors:
            if plugin := self.installed.get(processor):
                with plugin.being("configured"):
                    processor.configure(settings)
                _check_types(plugin, processor)
            else:
                processor.configure(settings)
            name = type(processor).__name__
            problems = [
                f"TASK_TYPES: the type {task_type!r} of {name} belongs to {taken[task_type]}: give it another name"
                for task_type in sorted(processor.task_types & taken.keys())
                if isinstance(processor, PromptProcessor)
            ]
            if problems:
                raise ConfigurationError(*problems)
            taken |= dict.fromkeys(processor.task_types, name)
        for processor in self._optional:
            processor.configure(settings)
            processor.task_types = frozenset(filter(gives, processor.task_types - taken.keys()))
            taken |= dict.fromkeys(processor.task_types, type(processor).__name__)
        if unknown := [name for name in settings.parts.enabled_task_types if name.replace("-", "_") not in taken]:
            reason = f"ENABLED_TASK_TYPES has types that no processor declares: {', '.join(unknown)}"
            self.warnings.append(reason)
        worker = settings.worker
        self.limits, odd = limits_of(worker.concurrency_limits, self.task_types, worker.concurrency_limit)
        self.warnings += odd

    def equip(self, context: ProcessorContext) -> None:
        """Give every processor its context; before the first task."""
        for processor in self.processors:
            if plugin := self.installed.get(processor):
                with plugin.being("given its context"):
                    processor.equip(context)
            else:
                processor.equip(context)
        for processor, plugin in self.installed.items():
            log.info("plugin.loaded", processor=type(processor).__name__, package=plugin.package)

    def hold_s(self) -> float:
        """Seconds for which no task at all should be claimed: 0 as soon as one processor can work.

        0 also when none ever can: polls show what is pending.
        """
        pause_s = min(map(self._pause_s, self.processors), default=inf)
        return 0.0 if pause_s == inf else pause_s

    def resumes_in_s(self) -> float:
        """Seconds until a paused lane of some processor may be tried again; infinite when none is paused."""
        return min(map(self._resumes_in_s, self.processors), default=inf)

    @property
    def task_types(self) -> frozenset[str]:
        """The task types that processors declare."""
        return self._types(self.processors)

    @property
    def chats(self) -> bool:
        """Whether some processor uses chat models."""
        return any(processor.chats for processor in self.processors)

    def chats_with(self, parts: PartsSettings, usual: Collection[str] | None = None) -> bool:
        """The same before ``configure``, as far as it is known then."""
        gives = _gives(parts, usual)
        needed = (each for each in self._optional if any(map(gives, each.task_types)))
        return any(processor.chats for processor in (*self._processors, *needed))

    @property
    def chat_types(self) -> frozenset[str]:
        """The task types of processors that use chat models."""
        return self._types(each for each in self.processors if each.chats)

    @property
    def services(self) -> Sequence[str]:
        """The remotes of processors."""
        return [service for each in self.processors for service in each.services]

    @property
    def settings_groups(self) -> frozenset[type[Group]]:
        """The settings that processors declare."""
        return frozenset(plugins.groups_of([*self._processors, *self._optional]))

    def find(self, task: Task) -> BaseProcessor | None:
        """The processor for this task, or None: then it stays pending."""
        if not self._takes(task.type):
            return None
        for processor in chain(self._processors, self._optional):
            try:
                if processor.can_process(task) and (processor not in self.installed or _answers(processor, task)):
                    return processor
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary around somebody's code
                self._failed(processor, error)
        return None

    def _types(self, processors: Iterable[BaseProcessor]) -> frozenset[str]:
        return frozenset(name for each in processors for name in each.task_types if self._takes(name))

    def _pause_s(self, processor: BaseProcessor) -> float:
        try:
            return _hold_s(processor)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary around somebody's code
            self._failed(processor, error)
            return 0.0

    def _resumes_in_s(self, processor: BaseProcessor) -> float:
        try:
            return max(0.0, processor.resumes_in_s())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary around somebody's code
            self._failed(processor, error)
            return inf

    def _failed(self, processor: BaseProcessor, error: BaseException) -> None:
        """Processors are called for every listed task: each type of error is logged once per processor."""
        failure = type(processor).__name__, type(error).__name__
        if failure not in self._reported:
            self._reported.add(failure)
            log.error("plugin.failed", processor=failure[0], exc_info=error)


def _gives(parts: PartsSettings, usual: Collection[str] | None) -> Callable[[str], bool]:
    """Whether built-ins take a type."""
    return parts.takes if parts.enabled_task_types else (USUAL_TYPES if usual is None else usual).__contains__


def _answers(processor: BaseProcessor, task: Task) -> bool:
    """Admission calls these methods next. A processor whose methods raise gets no task; the others go on."""
    lane = processor.lane(task)
    return (lane is None or processor.lane_hold_s(lane, 0) >= 0) and _hold_s(processor) >= 0


def _hold_s(processor: BaseProcessor) -> float:
    return max(0.0, processor.hold_s())


def _made(plugin: plugins.Plugin) -> BaseProcessor:
    with plugin.being("loaded"):
        processor = plugin.load()()
    if not isinstance(processor, BaseProcessor):
        raise plugin.unusable("is not a BaseProcessor")
    plugin.check(processor)
    _check_types(plugin, processor)
    return processor


def _check_types(plugin: plugins.Plugin, processor: BaseProcessor) -> None:
    types: object = processor.task_types
    if not isinstance(types, Set) or not all(isinstance(each, str) for each in types):
        raise plugin.unusable("has task_types that is no set of texts")
