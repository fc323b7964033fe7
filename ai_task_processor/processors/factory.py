"""ProcessorFactory: which processor serves a task. Built-ins stand in its list; installed packages add theirs."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from ai_task_processor.errors import ConfigurationError
from ai_task_processor.kit import Kit
from ai_task_processor.logs import get_logger
from ai_task_processor.models.task import Task
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.text_embedding import TextEmbeddingProcessor

ENTRY_POINTS = "ai_task_processor.processors"

log = get_logger(__name__)


class ProcessorFactory:
    """Holds every processor; the first that wants a task gets it, built-ins before strangers.

    Raises ``ConfigurationError`` when an installed processor cannot be loaded: a worker that quietly
    leaves a kind of task undone helps nobody.
    """

    def __init__(self) -> None:
        self._processors: list[BaseProcessor] = [
            TextEmbeddingProcessor(),
        ]
        self._processors += _installed(entry_points(group=ENTRY_POINTS))

    def equip(self, kit: Kit) -> None:
        """Hand every processor its kit; before the first task."""
        for processor in self._processors:
            processor.kit = kit

    def hold_s(self) -> float:
        """For how many seconds no task of any kind should be claimed: 0 as soon as one processor can work."""
        return min(processor.hold_s() for processor in self._processors)

    @property
    def task_types(self) -> frozenset[str]:
        """Every task type that a processor declares."""
        return frozenset().union(*(processor.task_types for processor in self._processors))

    def find(self, task: Task) -> BaseProcessor | None:
        """The processor for this task, or None: then it stays pending."""
        return next((processor for processor in self._processors if _wants(processor, task)), None)


def _wants(processor: BaseProcessor, task: Task) -> bool:
    try:
        return processor.can_process(task)
    except Exception as error:
        log.error("plugin.failed", processor=type(processor).__name__, task_id=task.id, exc_info=error)
        return False


def _installed(found: Iterable[EntryPoint]) -> list[BaseProcessor]:
    processors = []
    for entry_point in found:
        origin = f"the processor {entry_point.name!r} of the package {getattr(entry_point.dist, 'name', 'unknown')!r}"
        try:
            processor = entry_point.load()()
        except Exception as error:
            problem = f"{origin} cannot be loaded ({type(error).__name__}): mend or uninstall that package"
            raise ConfigurationError(problem) from error
        if not isinstance(processor, BaseProcessor):
            raise ConfigurationError(f"{origin} is not a BaseProcessor: mend or uninstall that package")
        log.info("plugin.loaded", processor=type(processor).__name__, package=getattr(entry_point.dist, "name", None))
        processors.append(processor)
    return processors
