"""Micro-batches across tasks: many tasks' texts in few model calls, with no task waiting for a full house.

A batch leaves when a call may start and no refill is on its way (waiting at most 50 ms, or a tenth of what a
call usually takes): a lone task leaves at once, refilled slots leave together. Each model has a ``Lane`` with a
pace (``providers/limiter.py``), a size of call (``providers/call_size.py``) and a circuit of its own: what is
wrong with one model, or with one text, does not stop the others. Equal texts are paid for once: whoever brings one
that waits or is on its way shares its answer, and vectors are remembered (``vector_cache.py``).
"""

from ai_task_processor.processors.embedding.batcher import MAX_LANES, MicroBatcher
from ai_task_processor.processors.embedding.circuits import ModelCircuits
from ai_task_processor.processors.embedding.lane import Intake

__all__ = ["MAX_LANES", "Intake", "MicroBatcher", "ModelCircuits"]
