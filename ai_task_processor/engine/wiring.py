"""The composition root: the one place that sees every part and wires them together.

Nothing here connects or starts: constructors store. ``app.py`` gives the parts their life.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ai_task_processor import __version__
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.ports import Provider
from ai_task_processor.core.process import descriptor_limit
from ai_task_processor.core.settings import ModelSettings, Settings
from ai_task_processor.engine.admission import EngineAdmission, RunningTasks
from ai_task_processor.engine.delivery import Delivery
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.engine.scheduler import TaskScheduler
from ai_task_processor.models.task import Record
from ai_task_processor.net.client import HttpClient, make_client
from ai_task_processor.net.oauth import TOKEN_TIMEOUT_S, TokenSource
from ai_task_processor.net.resilience import Gate, Retries
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.context import Kit
from ai_task_processor.processors.embedding import MicroBatcher, ModelCircuits
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.providers import MAX_ANSWER_BYTES, NATIVE_DIMENSIONS, OPENAI_URL
from ai_task_processor.providers.deferred import DeferredProvider
from ai_task_processor.providers.memory import ModelMemory
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.rotating import RotatingProvider
from ai_task_processor.sources.nestjs.source import NestTaskSource
from ai_task_processor.stores.sqlite.journal import FileJournal
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox

#: how soon to look again whether something may be claimed, while the disk refuses, and while delivery is behind
STORAGE_LOOK_S, DELIVERY_LOOK_S = 0.5, 0.005
#: nothing is claimed while the file system has less left than this, and so much for each slot: what is
#: on its way from a model must find room, in the database and in its log
DISK_RESERVE, DISK_RESERVE_PER_SLOT = 4 * 2**20, 2**16
#: of TASK_TIMEOUT, the part that a processor may spend waiting for a remote
PATIENCE_SHARE = 0.9
#: of REQUEST_TIMEOUT, the part that a token request inside it may take: so that its failure is told apart
TOKEN_SHARE = 0.5
#: connections for tokens and for polls, two each, and for model calls
OTHER_CONNECTIONS, MODEL_CONNECTIONS = 4, 64
#: descriptors that no client takes: for the ops port, the outbox, logs, plug-ins
RESERVED_DESCRIPTORS = 64
USUAL_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")
#: models with metric series of their own; the rest is counted as ``other``
MAX_COUNTED_MODELS = 3

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gates:
    """One gate for each remote; polls and PATCHes are told apart, so that neither stops the other."""

    poll: Gate
    delivery: Gate
    model: ModelCircuits
    token: Gate

    def all(self) -> tuple[Gate | ModelCircuits, ...]:
        return (self.poll, self.delivery, self.model, self.token)


@dataclass(frozen=True, slots=True)
class Storage:
    """What keeps on disk, and whether it can keep more."""

    outbox: SqliteOutbox
    journal: FileJournal
    reserve_bytes: int

    @property
    def writable(self) -> bool:
        return self.outbox.writable and self.journal.usable()

    @property
    def disk_full(self) -> bool:
        return self.outbox.free_bytes() < self.reserve_bytes

    @property
    def accepting(self) -> bool:
        """May something be started whose result must be kept?"""
        return self.writable and not self.outbox.full and not self.disk_full


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every part of the daemon, wired and at rest. ``clients`` are to be closed at the end."""

    settings: Settings
    clock: SystemClock
    metrics: Metrics
    gates: Gates
    outbox: SqliteOutbox
    storage: Storage
    recovery: Recovery
    clients: Sequence[HttpClient]
    tokens: TokenSource
    secrets: Secrets
    factory: ProcessorFactory
    source: NestTaskSource
    provider: Provider | None
    batcher: MicroBatcher | None
    delivery: Delivery
    scheduler: TaskScheduler


class Assembler:
    """Builds the parts in the order of their needs.

    ``read`` reads the settings again, for secrets that have been replaced. Raises ``ConfigurationError`` when an
    installed processor cannot be loaded.
    """

    def __init__(self, settings: Settings, *, read: Callable[[], Settings] | None = None) -> None:
        self._settings = settings
        self._secrets = Secrets(settings, read)
        self._clock = SystemClock()
        self._rng = random.Random()  # noqa: S311 - jitter, not secrets
        self._factory = ProcessorFactory()
        model = settings.model
        self._metrics = Metrics(
            version=__version__,
            provider=model.mode,
            models=_counted_models(model),
            task_types=self._factory.task_types,
        )
        threshold = settings.worker.circuit_breaker_threshold
        circuits = ModelCircuits(threshold=threshold, clock=self._clock, metrics=self._metrics)
        self._gates = Gates(self._gate("api_poll"), self._gate("api_delivery"), circuits, self._gate("token"))
        self._clients: list[HttpClient] = []
        self._delivering, self._calling = connections(
            settings.delivery.concurrency, MODEL_CONNECTIONS if model.mode == "openai" else 0, descriptor_limit()
        )

    def parts(self) -> Parts:
        settings, gates = self._settings, self._gates
        self._warn_of_descriptors()
        outbox = self._outbox()
        journal, slots = FileJournal(settings.store.data_dir, _soon), settings.worker.concurrency_limit
        storage = Storage(outbox, journal, DISK_RESERVE + slots * DISK_RESERVE_PER_SLOT)
        recovery = Recovery(journal, outbox, clock=self._clock)
        tokens = self._tokens()
        running = RunningTasks()
        admission = EngineAdmission(running, outbox, self._factory.find, recovery)
        source = self._source(tokens, admission)
        delivery = Delivery(
            outbox,
            source,
            gate=gates.delivery,
            concurrency=settings.delivery.concurrency,
            clock=self._clock,
            metrics=self._metrics,
            rng=self._rng,
        )
        runner = self._runner(source, storage, kept=delivery.offer)
        scheduler = self._scheduler(source, runner, storage, recovery, delivery, running, admission)
        provider = self._provider()
        batcher = None if provider is None else self._batcher(provider, scheduler, source)
        self._factory.equip(self._kit(batcher))
        return Parts(
            settings=settings,
            clock=self._clock,
            metrics=self._metrics,
            gates=gates,
            outbox=outbox,
            storage=storage,
            recovery=recovery,
            clients=self._clients,
            tokens=tokens,
            secrets=self._secrets,
            factory=self._factory,
            source=source,
            provider=provider,
            batcher=batcher,
            delivery=delivery,
            scheduler=scheduler,
        )

    def _warn_of_descriptors(self) -> None:
        wanted = self._settings.delivery.concurrency
        if self._delivering < wanted:
            log.warning(
                "settings.warned",
                reason=f"CONCURRENCY_LIMIT or DELIVERY_CONCURRENCY asks for {wanted} connections, but this process may "
                f"have {descriptor_limit()} files open (ulimit -n) and keeps {RESERVED_DESCRIPTORS} of them for other "
                f"things: at most {self._delivering} results are reported at once",
            )

    def _outbox(self) -> SqliteOutbox:
        store = self._settings.store

        def lost(task_id: str | None) -> None:
            self._metrics.result_lost()
            log.critical("result.lost", task_id=task_id)

        return SqliteOutbox(store.data_dir, max_bytes=store.outbox_max_bytes, clock=self._clock, lost=lost)

    def _gate(self, service: str) -> Gate:
        threshold = self._settings.worker.circuit_breaker_threshold
        return Gate(service, threshold=threshold, clock=self._clock, metrics=self._metrics)

    def _client(self, url: str, connections: int, **options: object) -> HttpClient:
        client = make_client(self._settings.network, url=url, connections=connections, **options)  # type: ignore[arg-type]  # passed on as they are
        self._clients.append(client)
        return client

    def _tokens(self) -> TokenSource:
        auth = self._settings.auth
        return TokenSource(
            auth,
            self._client(auth.token_url, 2),
            timeout_s=min(TOKEN_TIMEOUT_S, TOKEN_SHARE * self._settings.api.request_timeout_s),
            gate=self._gates.token,
            clock=self._clock,
            metrics=self._metrics,
            rng=self._rng,
            secrets=self._secrets,
        )

    def _source(self, tokens: TokenSource, admission: EngineAdmission) -> NestTaskSource:
        api = self._settings.api
        return NestTaskSource(
            api,
            polling=self._client(api.base_url, 2, tokens=tokens, max_answer_bytes=None),
            delivering=self._client(api.base_url, self._delivering, tokens=tokens),
            poll_gate=self._gates.poll,
            delivery_gate=self._gates.delivery,
            admission=admission,
            clock=self._clock,
            metrics=self._metrics,
        )

    def _runner(self, source: NestTaskSource, storage: Storage, *, kept: Callable[[Record], None]) -> TaskRunner:
        return TaskRunner(
            source=source,
            outbox=storage.outbox,
            journal=storage.journal,
            marks=source.mark_with(storage.journal) if self._settings.api.mark_in_progress else None,
            find=self._factory.find,
            kept=kept,
            timeout_s=self._settings.worker.task_timeout_s,
            clock=self._clock,
            metrics=self._metrics,
            rng=self._rng,
        )

    def _scheduler(
        self,
        source: NestTaskSource,
        runner: TaskRunner,
        storage: Storage,
        recovery: Recovery,
        delivery: Delivery,
        running: RunningTasks,
        admission: EngineAdmission,
    ) -> TaskScheduler:
        worker = self._settings.worker

        def hold_s() -> float:
            """Nothing is claimed whose result could not be kept, nor while a remote it needs is away."""
            if not storage.accepting:
                return STORAGE_LOOK_S
            behind_s = DELIVERY_LOOK_S if delivery.behind else 0.0
            return max(behind_s, self._gates.poll.wait_s(), self._factory.hold_s())

        return TaskScheduler(
            source,
            runner,
            running=running,
            refuse=admission.refuse,
            lane=admission.lane,
            recovery=recovery,
            slots=worker.concurrency_limit,
            interval_s=worker.polling_interval_s,
            hold_s=hold_s,
            resumes_in_s=self._factory.resumes_in_s,
            clock=self._clock,
            metrics=self._metrics,
            rng=self._rng,
        )

    def _provider(self) -> Provider | None:
        model = self._settings.model
        if model.mode == "mock":
            return MockProvider(model.embedding_dimensions)
        if model.mode == "none":
            return None
        client = self._client(model.base_url or OPENAI_URL, self._calling, max_answer_bytes=MAX_ANSWER_BYTES)

        def make() -> Provider:
            from ai_task_processor.providers.openai_api import OpenAIProvider

            return OpenAIProvider(self._secrets.model, client, self._metrics)

        return RotatingProvider(lambda: DeferredProvider("openai", make), self._secrets)

    def _batcher(self, provider: Provider, scheduler: TaskScheduler, source: NestTaskSource) -> MicroBatcher:
        model = self._settings.model
        size = model.vector_cache_bytes
        return MicroBatcher(
            provider.embed,
            circuits=self._gates.model,
            threshold=self._settings.worker.circuit_breaker_threshold,
            retries=Retries(model.max_retries, model.retry_backoff_factor),
            cache=VectorCache(size, model.embedding_dimensions) if size else None,
            length_of=self._vector_length,
            opened=source.end_wait,
            memory=ModelMemory(self._settings.store.data_dir),
            intake=scheduler,
            clock=self._clock,
            metrics=self._metrics,
        )

    def _vector_length(self, name: str) -> tuple[int | None, int | None]:
        """What is known of the length of a model's vectors, and what its name speaks for."""
        model, native = self._settings.model, NATIVE_DIMENSIONS.get(name)
        known = model.embedding_dimensions or (native if model.base_url is None else None)
        return (known or native or 1536 if model.mode == "mock" else known), native

    def _kit(self, batcher: MicroBatcher | None) -> Kit:
        model = self._settings.model
        return Kit(
            clock=self._clock,
            patience_s=PATIENCE_SHARE * self._settings.worker.task_timeout_s,
            embedder=batcher,
            default_model=model.default_embedding_model,
            model_aliases=model.aliases,
            result_as_object=model.embedding_result == "object",
        )


def connections(delivering: int, calling: int, limit: int) -> tuple[int, int]:
    """How many connections each of the two may have when ``limit`` files may be open; at least one."""
    room = limit - RESERVED_DESCRIPTORS - OTHER_CONNECTIONS
    share = min(1.0, max(0, room) / (delivering + calling))
    return max(1, int(delivering * share)), max(1, int(calling * share))


def _soon(call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(call)


def _counted_models(model: ModelSettings) -> list[str]:
    named = dict.fromkeys((model.default_embedding_model, *model.aliases.values(), *USUAL_MODELS))
    return list(named)[:MAX_COUNTED_MODELS]
