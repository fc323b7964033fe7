"""Contract suites and fakes for authors of sources, stores, sinks, providers and processors. It needs no pytest.

Each suite is a list of promises (tests), and a function that runs them all against an implementation. The
implementations of this package pass the same suites.
"""

from ai_task_processor.testing.chat import ChatCase, check_chat_provider
from ai_task_processor.testing.context import processor_context
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox, MemoryStore
from ai_task_processor.testing.processor import PROCESSOR_PROMISES, ProcessorCase, check_processor
from ai_task_processor.testing.provider import PROVIDER_PROMISES, ProviderCase, check_provider
from ai_task_processor.testing.sink import SINK_PROMISES, SinkCase, check_sink
from ai_task_processor.testing.source import SOURCE_PROMISES, SourceCase, check_source
from ai_task_processor.testing.store import STORE_PROMISES, StoreCase, check_store

__all__ = [
    "PROCESSOR_PROMISES",
    "PROVIDER_PROMISES",
    "SINK_PROMISES",
    "SOURCE_PROMISES",
    "STORE_PROMISES",
    "ChatCase",
    "MemoryJournal",
    "MemoryOutbox",
    "MemoryStore",
    "ProcessorCase",
    "ProviderCase",
    "SinkCase",
    "SourceCase",
    "StoreCase",
    "check_chat_provider",
    "check_processor",
    "check_provider",
    "check_sink",
    "check_source",
    "check_store",
    "processor_context",
]
