"""What a component is built with: its settings, and the objects that all components share."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ai_task_processor.core.ports import Clock, SourceMemory
from ai_task_processor.core.process import descriptor_limit
from ai_task_processor.core.settings import Settings
from ai_task_processor.net.client import MAX_ANSWER_BYTES, HttpClient, Tokens, make_client
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: descriptors reserved for the ops port, the store, logs and plug-ins; one client may use half of the others
RESERVED_DESCRIPTORS = 64

#: Finds something about a result at a remote; None when there is nothing. Raises ``RemoteError``.
Lookup = Callable[[Mapping[str, object]], Awaitable[str | None]]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """``source`` is the name of the selected source: the records of a store belong to it.

    ``secrets[AGroup]`` has the secrets as they were read last, ``settings[AGroup]`` as they were at the start.
    ``memory`` (for the source) and ``directory`` (for small files, None when the store has none) come from the store.
    ``lost`` is called with the id of each task whose stored result is gone, None when the id is unknown.
    ``clients``: those that were made, each with its URL. ``lookups``: what the source can look up for sinks, by what it
    finds (``email``); the source is built first.
    """

    settings: Settings
    secrets: Secrets
    clock: Clock
    metrics: Metrics
    rng: random.Random
    source: str
    lost: Callable[[str | None], object]
    memory: SourceMemory | None = None
    directory: Path | None = None
    gates: dict[str, Gate] = field(default_factory=dict)
    clients: list[tuple[str, HttpClient]] = field(default_factory=list)
    lookups: dict[str, Lookup] = field(default_factory=dict)

    def gate(self, service: str) -> Gate:
        """The gate of a remote service, shared by all callers: ``api_poll`` for polls, ``api_delivery`` for reports."""
        if service not in self.gates:
            threshold = self.settings.worker.circuit_breaker_threshold
            self.gates[service] = Gate(service, threshold=threshold, clock=self.clock, metrics=self.metrics)
        return self.gates[service]

    def client(
        self,
        url: str,
        connections: int,
        *,
        tokens: Tokens | None = None,
        max_answer_bytes: int | None = MAX_ANSWER_BYTES,
    ) -> HttpClient:
        """An HTTP client for the server at ``url``; the caller closes it.

        It has fewer ``connections`` when the limit of open files demands it.
        """
        most = max(1, (descriptor_limit() - RESERVED_DESCRIPTORS) // 2)
        if connections > most:
            log.warning(
                "settings.warned",
                reason=f"{connections} connections to {urlsplit(url).hostname} are asked for, but this process may "
                f"have {descriptor_limit()} files open (ulimit -n) and keeps {RESERVED_DESCRIPTORS} of them for other "
                f"things: at most {most} are used at once",
            )
        client = make_client(
            self.settings.network,
            url=url,
            connections=min(connections, most),
            tokens=tokens,
            max_answer_bytes=max_answer_bytes,
        )
        self.clients.append((url, client))
        return client
