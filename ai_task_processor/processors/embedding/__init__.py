"""Micro-batches: the texts of many tasks travel in few model calls, and no task waits until a batch is full.

A batch is sent when a call may start and no slot is being refilled (it waits at most 50 ms, or a tenth of the usual
call): a single task is sent at once, tasks of refilled slots together. A ``Lane`` is one model's queue of calls. It
has its own pace (``providers/limiter.py``), size of call (``providers/call_size.py``) and circuit, so that a failing
model or text does not stop the others. Equal texts are paid for once: they share an input or a call under way, and
vectors are cached (``cache.py``).
"""

from collections.abc import Callable

from ai_task_processor.core.ports import Provider
from ai_task_processor.net.resilience import Retries
from ai_task_processor.net.services import Services
from ai_task_processor.processors.embedding.batcher import MAX_LANES, MicroBatcher
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.lane import Intake
from ai_task_processor.providers.circuits import ModelCircuits
from ai_task_processor.providers.memory import ModelMemory
from ai_task_processor.providers.settings import ModelSettings

__all__ = ["MAX_LANES", "Intake", "MicroBatcher", "ModelCircuits", "micro_batcher"]


def micro_batcher(
    provider: Provider, services: Services, circuits: ModelCircuits, *, intake: Intake, opened: Callable[[], None]
) -> MicroBatcher:
    """The micro-batcher of a provider. ``opened`` is called when a paused model may be used again."""
    model, directory = services.settings[ModelSettings], services.directory
    size = model.vector_cache_bytes
    return MicroBatcher(
        provider.embed,
        provider=provider.name,
        circuits=circuits,
        threshold=services.settings.worker.circuit_breaker_threshold,
        retries=Retries(model.max_retries, model.retry_backoff_factor),
        cache=VectorCache(size, model.embedding_dimensions) if size else None,
        length_of=model.vector_length,
        opened=opened,
        memory=None if directory is None else ModelMemory(directory),
        intake=intake,
        clock=services.clock,
        metrics=services.metrics,
    )
