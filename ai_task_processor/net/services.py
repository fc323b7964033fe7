"""What a component is built with: the settings that it declared, and what all of them share."""

import random
from collections.abc import Callable
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

#: descriptors that no client takes: for the ops port, the store, logs, plug-ins. One client may have half of the rest.
RESERVED_DESCRIPTORS = 64

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """``source`` is the name of the selected source: what a store keeps belongs to it.

    ``secrets[AGroup]`` has the secrets as they were read last, ``settings[AGroup]`` as they were at the start.
    ``memory`` (for the source) and ``directory`` (for small files, None when the store has none) come from the store.
    ``lost`` is called with the id of each task whose stored result turns out to be gone, None for one without a name.
    ``clients``: those that were made, with the URL each was made for.
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

    def gate(self, service: str) -> Gate:
        """The circuit breaker and pauses of a remote service: one for each name, shared by all who ask for it.

        ``api_poll`` is asked before a poll, ``api_delivery`` before a report.
        """
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
        """An HTTP client for the server at ``url``; whoever asks for it closes it.

        It has fewer ``connections`` than that when the process may not have so many files open.
        """
        room = max(1, (descriptor_limit() - RESERVED_DESCRIPTORS) // 2)
        if connections > room:
            log.warning(
                "settings.warned",
                reason=f"{connections} connections to {urlsplit(url).hostname} are asked for, but this process may "
                f"have {descriptor_limit()} files open (ulimit -n) and keeps {RESERVED_DESCRIPTORS} of them for other "
                f"things: at most {room} are used at once",
            )
        client = make_client(
            self.settings.network,
            url=url,
            connections=min(connections, room),
            tokens=tokens,
            max_answer_bytes=max_answer_bytes,
        )
        self.clients.append((url, client))
        return client
