"""The composition root: builds every part and connects them.

Nothing here opens a connection or starts: constructors store. ``daemon.py`` runs the parts.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ai_task_processor import __version__
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.component import Component
from ai_task_processor.core.plugins import Selected
from ai_task_processor.core.ports import Clock, Provider, Sink, Store, TaskSource
from ai_task_processor.core.settings import Settings
from ai_task_processor.engine.admission import EngineAdmission, RunningTasks
from ai_task_processor.engine.delivery import Delivery
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.heartbeat import Heartbeat
from ai_task_processor.engine.pause import Pause
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.engine.scheduler import TaskScheduler
from ai_task_processor.engine.slots import Slots
from ai_task_processor.engine.steps import TaskSteps
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.caller import ChatCaller, chat_caller
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.context import ProcessorContext
from ai_task_processor.processors.embedding import MicroBatcher, micro_batcher
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.providers.circuits import ModelCircuits
from ai_task_processor.providers.settings import ModelSettings

#: seconds until the next check whether something may be claimed: store not accepting, delivery behind, paused
STORAGE_LOOK_S, DELIVERY_LOOK_S, PAUSED_LOOK_S = 0.5, 0.005, 0.1
#: models with metric series of their own
MAX_MODELS = 3
#: part of TASK_TIMEOUT that a processor may wait for a remote
WAIT_SHARE = 0.9

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every part of the daemon, wired and not started."""

    settings: Settings
    faults: Faults
    clock: Clock
    metrics: Metrics
    secrets: Secrets
    services: Services
    circuits: Sequence[ModelCircuits]
    store: Store
    sinks: Sequence[Sink]
    provider: Provider | None
    embedder: MicroBatcher | None
    chat_provider: Provider | None
    chat: ChatCaller | None
    factory: ProcessorFactory
    source: TaskSource
    recovery: Recovery
    pause: Pause
    admission: EngineAdmission
    delivery: Delivery
    slots: Slots
    scheduler: TaskScheduler
    heartbeat: Heartbeat

    @property
    def components(self) -> Iterator[Component]:
        """In start order: each depends on those before it, and stops before them."""
        yield self.store
        yield self.source
        yield from self.sinks
        models = self.provider, self.embedder, self.chat_provider, self.chat
        yield from (part for part in models if part is not None)
        yield from self.factory.processors

    @property
    def gates(self) -> Sequence[Gate | ModelCircuits]:
        """The circuit breakers of all remotes."""
        return (*self.services.gates.values(), *self.circuits)


@dataclass(frozen=True, kw_only=True)
class _Components:
    """What the selected plug-ins have built. ``faults`` knows their packages."""

    services: Services
    store: Store
    source: TaskSource
    sinks: Sequence[Sink]
    provider: Provider | None
    chat_provider: Provider | None
    faults: Faults


def assemble(
    settings: Settings, selected: Selected, factory: ProcessorFactory, read: Callable[[], Settings] | None = None
) -> Parts:
    """Build the parts, each after those it depends on. ``read`` reads the settings again, for replaced secrets."""
    factory.configure(settings)
    for reason in factory.warnings:
        log.warning("settings.warned", reason=reason)
    built = _built(selected, _services(settings, selected, factory, read), factory)
    services, store, source, faults = built.services, built.store, built.source, built.faults
    clock, metrics, rng = services.clock, services.metrics, services.rng
    model, worker = settings[ModelSettings], settings.worker

    recovery = Recovery(store.journal, store.outbox, source=services.source, clock=clock)
    running = RunningTasks()
    pause = Pause(services.directory, clock)
    admission = EngineAdmission(
        running, store.outbox, factory.find, recovery, limits=factory.limits, stopped=lambda: pause.state is not None
    )
    delivery = Delivery(
        store.outbox,
        source,
        steps=store.steps,
        sinks=built.sinks,
        gate=services.gate("api_delivery"),
        concurrency=settings.delivery.concurrency,
        faults=faults,
        clock=clock,
        metrics=metrics,
        rng=rng,
    )
    steps = TaskSteps(store.steps, metrics)
    runner = TaskRunner(
        source=source,
        reporter=delivery.reporter,
        outbox=store.outbox,
        journal=store.journal,
        steps=steps,
        find=factory.find,
        persisted=delivery.offer,
        timeout_s=worker.task_timeout_s,
        faults=faults,
        clock=clock,
        metrics=metrics,
        rng=rng,
    )

    def hold_s() -> float:
        """Seconds for which nothing may be claimed: paused, or the store, delivery, source or provider take no more."""
        if pause.state is not None:
            return PAUSED_LOOK_S
        accepting = False
        with faults.of(store, "accepting"):
            accepting = store.accepting
        if not accepting:
            return STORAGE_LOOK_S
        behind_s = DELIVERY_LOOK_S if delivery.behind else 0.0
        return max(behind_s, services.gate("api_poll").wait_s(), factory.hold_s())

    slots = Slots(
        worker.concurrency_limit,
        source=source,
        runner=runner,
        running=running,
        journal=store.journal,
        admission=admission,
        recovery=recovery,
        faults=faults,
        clock=clock,
    )
    scheduler = TaskScheduler(
        source,
        slots,
        admission=admission,
        recovery=recovery,
        interval_s=worker.polling_interval_s,
        hold_s=hold_s,
        resumes_in_s=factory.resumes_in_s,
        faults=faults,
        clock=clock,
        metrics=metrics,
        rng=rng,
    )
    heartbeat = Heartbeat(
        source,
        store.outbox,
        running=lambda: [task.claim.receipt for task in running.values()],
        revoke=slots.revoke,
        clock=clock,
    )
    circuits, embedder, chat = _models(built, scheduler)
    factory.equip(
        ProcessorContext(
            clock=clock,
            settings=settings,
            metrics=metrics,
            wait_s=WAIT_SHARE * worker.task_timeout_s,
            embedder=embedder,
            chat=chat,
            steps=steps,
            chat_is_mock=built.chat_provider is not None and built.chat_provider.name == "mock",
            services=services,
            default_model=model.default_embedding_model,
            model_aliases=model.aliases,
            result_as_object=model.embedding_result == "object",
        )
    )
    return Parts(
        settings=settings,
        faults=faults,
        clock=clock,
        metrics=metrics,
        secrets=services.secrets,
        services=services,
        circuits=circuits,
        store=store,
        sinks=built.sinks,
        provider=built.provider,
        embedder=embedder,
        chat_provider=built.chat_provider,
        chat=chat,
        factory=factory,
        source=source,
        recovery=recovery,
        pause=pause,
        admission=admission,
        delivery=delivery,
        slots=slots,
        scheduler=scheduler,
        heartbeat=heartbeat,
    )


def _built(selected: Selected, services: Services, factory: ProcessorFactory) -> _Components:
    """Build the components. Their services have the store's directory and memory, the store's own do not."""
    store: Store = selected.store.build(services)
    services = replace(services, memory=store.memory, directory=store.directory)
    built = _Components(
        services=services,
        store=store,
        source=selected.source.build(services),
        sinks=[sink.build(services) for sink in selected.sinks],
        provider=selected.provider.build(services),
        chat_provider=None if selected.chat is None else selected.chat.build(services, "build_chat"),
        faults=Faults(),
    )
    faults = built.faults
    faults.name(selected.store, store, store.outbox, store.journal)
    faults.name(selected.source, built.source)
    faults.name(selected.provider, built.provider)
    for plugin, sink in zip(selected.sinks, built.sinks, strict=True):
        faults.name(plugin, sink)
    if selected.chat is not None:
        faults.name(selected.chat, built.chat_provider)
    for processor, plugin in factory.installed.items():
        faults.name(plugin, processor)
    return built


def _models(
    built: _Components, scheduler: TaskScheduler
) -> tuple[Sequence[ModelCircuits], MicroBatcher | None, ChatCaller | None]:
    """The circuits of models, and the calls of embedding and chat models under them, if there are any."""
    services = built.services
    threshold = services.settings.worker.circuit_breaker_threshold

    def circuits(service: str) -> ModelCircuits:
        return ModelCircuits(threshold=threshold, clock=services.clock, metrics=services.metrics, service=service)

    def resume() -> None:
        with built.faults.of(built.source, "resume"):
            built.source.resume()

    found, embedder, chat = [circuits("model")], None, None
    if built.provider is not None:
        embedder = micro_batcher(built.provider, services, found[0], intake=scheduler, opened=resume)
    if built.chat_provider is not None:
        found.append(circuits("chat"))
        chat = chat_caller(built.chat_provider, services, found[1], opened=resume)
    return found, embedder, chat


def _services(
    settings: Settings, selected: Selected, factory: ProcessorFactory, read: Callable[[], Settings] | None
) -> Services:
    """What every component gets."""
    model, source = settings[ModelSettings], selected.source.load()
    chat_models = [settings[PromptSettings].model] if factory.chats else []
    metrics = Metrics(
        version=__version__,
        provider=model.mode,
        models=[*model.counted_models()[: MAX_MODELS - len(chat_models)], *chat_models],
        task_types=factory.task_types,
        chat_models=chat_models,
        chat_types=factory.chat_types,
        services=[
            *factory.services,
            *getattr(source, "services", ()),
            *(sink.entry_point.name for sink in selected.sinks),
        ],
        routes=getattr(source, "routes", ()),
        currency=None if model.prices is None else model.prices.currency,
    )
    name: object = getattr(source, "name", "")

    def lost(task_id: str | None) -> None:
        metrics.result_lost()
        log.critical("result.lost", task_id=task_id)

    return Services(
        settings=settings,
        secrets=Secrets(settings, read),
        clock=SystemClock(),
        metrics=metrics,
        rng=random.Random(),  # noqa: S311 - jitter, not secrets
        source=name if isinstance(name, str) and name else settings.parts.task_source,
        lost=lost,
    )
