"""Micro-batches across tasks: many tasks' texts in few model calls, with no task waiting for a full house.

A batch leaves when a call may start and no refill is on its way (waiting at most 50 ms, or a tenth of what a
call usually takes): a lone task leaves at once, refilled slots leave together. Each model has a ``Lane`` with a
pace (``providers/limiter.py``), a size of call (``providers/call_size.py``) and a circuit of its own: what is
wrong with one model, or with one text, does not stop the others. Equal texts are paid for once: whoever brings one
that waits or is on its way shares its answer, and vectors are remembered (``vector_cache.py``).
"""

from collections.abc import Callable

from ai_task_processor.core.ports import Provider
from ai_task_processor.net.resilience import Retries
from ai_task_processor.net.services import Services
from ai_task_processor.processors.embedding.batcher import MAX_LANES, MicroBatcher
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.circuits import ModelCircuits
from ai_task_processor.processors.embedding.lane import Intake
from ai_task_processor.providers.memory import ModelMemory
from ai_task_processor.providers.settings import ModelSettings

__all__ = ["MAX_LANES", "Intake", "MicroBatcher", "ModelCircuits", "micro_batcher"]


def micro_batcher(
    provider: Provider, services: Services, circuits: ModelCircuits, *, intake: Intake, opened: Callable[[], None]
) -> MicroBatcher:
    """One in front of this provider, as the settings say. ``opened`` is called when a held model may be asked again."""
    model, directory = services.settings[ModelSettings], services.directory
    size = model.vector_cache_bytes
    return MicroBatcher(
        provider.embed,
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
