"""Plug-ins: finds the class of a source, store, sink or provider by its name in the settings, and all processors.

An installed package registers its classes as entry points (``ai_task_processor.sources`` and so on); their
``settings_groups`` declare the settings that they read. The built-ins are listed here, so that a checkout works without
installation, and in ``pyproject.toml``. Built-in processors are listed in ``ProcessorFactory``.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Literal

from ai_task_processor.core.errors import ConfigurationError, DataDirectoryError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.ports import Provider, Sink, Store, TaskSource
from ai_task_processor.core.profiles import FOLDER, is_path, kind_of, source_of
from ai_task_processor.core.reading import Reading
from ai_task_processor.core.settings import PartsSettings, Settings

Kind = Literal["sources", "stores", "sinks", "processors", "providers"]

PACKAGE: Final = "ai-task-processor"
BUILT_IN: Mapping[Kind, Mapping[str, str]] = {
    "sources": {
        "agents-playground": "ai_task_processor.sources.rest.source:RestSource",
        "aletheia": "ai_task_processor.sources.rest.source:RestSource",
        "due-soon": "ai_task_processor.sources.periodic.source:PeriodicSource",
        "task-conversations": "ai_task_processor.sources.postgres.source:PostgresSource",
        "task-runner": "ai_task_processor.sources.task_runner.source:TaskRunnerSource",
    },
    "providers": {
        "mock": "ai_task_processor.providers.mock:MockProvider",
        "openai": "ai_task_processor.providers.rotating:RotatingProvider",
    },
    "stores": {"sqlite": "ai_task_processor.stores.sqlite.store:SqliteStore"},
    "sinks": {
        "kafka": "ai_task_processor.sinks.kafka.sink:KafkaSink",
        "qdrant": "ai_task_processor.sinks.qdrant:QdrantSink",
        "s3": "ai_task_processor.sinks.s3:S3Sink",
        "smtp": "ai_task_processor.sinks.smtp.sink:SmtpSink",
        "webhook": "ai_task_processor.sinks.webhook:WebhookSink",
    },
    "processors": {},
}
#: the sources that profiles describe, by kind
KINDS: Mapping[str, str] = {
    "periodic": "ai_task_processor.sources.periodic.source:PeriodicSource",
    "postgres": "ai_task_processor.sources.postgres.source:PostgresSource",
    "rest": "ai_task_processor.sources.rest.source:RestSource",
    "task-runner": "ai_task_processor.sources.task_runner.source:TaskRunnerSource",
}
#: the noun for one of the kind, and the variable that selects it
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "sources": ("source", "TASK_SOURCE"),
    "providers": ("provider", "EMBEDDING_PROVIDER or CHAT_PROVIDER"),
    "stores": ("store", "STORE"),
    "sinks": ("sink", "SINKS"),
    "processors": ("processor", ""),
}
#: what a class of each kind must have; ``ProcessorFactory`` checks processors
_PORTS: Mapping[Kind, type] = {"sources": TaskSource, "stores": Store, "sinks": Sink, "providers": Provider}
#: a name that a message repeats; anything else may be a secret in the wrong variable
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,24}")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A class that can be loaded by its name."""

    kind: Kind
    entry_point: EntryPoint
    package: str
    #: of a source that a profile describes
    profile: Path | None = None

    def __str__(self) -> str:
        return f"the {_WORDS[self.kind][0]} {self.entry_point.name!r} of the package {self.package!r}"

    def unusable(self, reason: str) -> ConfigurationError:
        """The error for a plug-in that cannot be used."""
        return ConfigurationError(f"{self} {reason}: mend or uninstall that package")

    @contextmanager
    def being(self, what: str) -> Iterator[None]:
        """Around a call of its code before the start. Errors without a remedy become ``ConfigurationError``."""
        try:
            yield
        except (ConfigurationError, DataDirectoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self.unusable(f"cannot be {what} ({type(error).__name__})") from error

    def load(self) -> Any:
        """The class. Raises ``ConfigurationError``."""
        with self.being("loaded"):
            found = self.entry_point.load()
            if self.profile is not None:
                found = source_of(found, self.profile)
        self.check(found)
        return found

    def build(self, services: Any, method: str = "build") -> Any:
        """What this method of the class returns: an object with every member of the port.

        None for a provider that is not configured. Raises ``ConfigurationError``, ``DataDirectoryError``.
        """
        with self.being("built"):
            made = getattr(self.load(), method)(services)
            lacking = None if made is None else next(_lacking(made, _PORTS[self.kind]), None)
        if made is None and self.kind != "providers":
            raise self.unusable(f"cannot be built ({method}() returned None)")
        if lacking is not None:
            raise self.unusable(f"is no {_WORDS[self.kind][0]} ({lacking})")
        return made

    def check(self, component: object) -> None:
        """Raises ``ConfigurationError`` when it declares settings that are no groups."""
        for attribute in ("settings_groups", "chat_groups"):
            groups: object = getattr(component, attribute, ())
            if not isinstance(groups, Collection) or not all(isinstance(each, type(Group)) for each in groups):
                raise self.unusable(f"has {attribute} that is no tuple of subclasses of Group")


def _lacking(found: object, port: type) -> Iterator[str]:
    """Why it does not implement the port: public members that it does not have. No property of a port is called."""
    names = {name for base in port.__mro__ for name in (*vars(base), *inspect.get_annotations(base))}
    for name in sorted(name for name in names if not name.startswith("_")):
        if callable(getattr(port, name, None)):
            if not callable(getattr(found, name, None)):
                yield f"it has no {name}()"
        elif inspect.getattr_static(found, name, _lacking) is _lacking and not hasattr(found, name):
            yield f"it has no {name}"
    if port is Sink and getattr(found, "order", None) not in ("before_report", "after_report"):
        yield "its order is neither before_report nor after_report"


def candidates(kind: Kind) -> Sequence[Plugin]:
    """All of a kind, sorted by name, also those of which two have the same name."""
    group = f"ai_task_processor.{kind}"
    found = [
        Plugin(kind, EntryPoint(name, value, group), PACKAGE, _profile(kind, name))
        for name, value in BUILT_IN[kind].items()
    ]
    others = ((each, getattr(each.dist, "name", "unknown")) for each in entry_points(group=group))
    found += [Plugin(kind, each, package) for each, package in others if package != PACKAGE]
    return sorted(found, key=lambda plugin: plugin.entry_point.name)


def installed(kind: Kind) -> Sequence[Plugin]:
    """All of a kind, sorted by name. Raises ``ConfigurationError`` when two packages use the same name."""
    by_name: dict[str, Plugin] = {}
    for plugin in candidates(kind):
        first = by_name.setdefault(plugin.entry_point.name, plugin)
        if first is not plugin:
            raise ConfigurationError(f"{first} is in the package {plugin.package!r}, too: uninstall one of them")
    return list(by_name.values())


def find(kind: Kind, name: str) -> Plugin:
    """The plug-in that a setting selects by name. Raises ``ConfigurationError``."""
    if kind == "sources" and is_path(name):
        return _described(Path(name))
    plugins = installed(kind)
    for plugin in plugins:
        if plugin.entry_point.name == name:
            return plugin
    word, variable = _WORDS[kind]
    said = f" ({name!r})" if _PLAIN.fullmatch(name) else ""
    names = ", ".join(plugin.entry_point.name for plugin in plugins) or "none"
    raise ConfigurationError(f"{variable} names no {word} that is installed{said}: there are {names}")


def _profile(kind: Kind, name: str) -> Path | None:
    file = FOLDER / f"{name}.toml"
    return file if kind == "sources" and file.is_file() else None


def _described(file: Path) -> Plugin:
    """The source that a profile of a user describes. Raises ``ConfigurationError``."""
    value = KINDS[kind_of(file, list(KINDS))]
    return Plugin("sources", EntryPoint(file.name, value, "ai_task_processor.sources"), PACKAGE, file)


def groups_of(components: Iterable[object]) -> Iterator[type[Group]]:
    """The groups of settings that components declare."""
    for component in components:
        yield from getattr(component, "settings_groups", ())


def chat_groups_of(provider: object) -> Sequence[type[Group]]:
    """The groups of settings that a provider declares for chat."""
    return getattr(provider, "chat_groups", ())


def built_in_groups() -> Sequence[type[Group]]:
    """The groups of every built-in, for documentation and tests."""
    components = [find(kind, name).load() for kind, names in BUILT_IN.items() for name in names]
    factory = EntryPoint("processors", "ai_task_processor.processors.factory:ProcessorFactory", "").load()
    groups = [group for each in components for group in (*groups_of([each]), *chat_groups_of(each))]
    groups += sorted(factory().settings_groups, key=lambda group: group.__name__)
    return list(dict.fromkeys(groups))


@dataclass(frozen=True, slots=True)
class Selected:
    """The plug-ins that the settings select.

    ``provider``: of embeddings; ``chat``: of chat models, None when nothing needs one.
    """

    source: Plugin
    store: Plugin
    sinks: Sequence[Plugin]
    provider: Plugin
    chat: Plugin | None


#: whether processors use chat models, given which types are enabled, and which are usual for the source
Chats = Callable[[PartsSettings, Collection[str] | None], bool]


class _Selection:
    """The components that the settings select, and the groups that they declare; mistakes go to ``reading``."""

    def __init__(self, reading: Reading, unread: Collection[Kind] = ()) -> None:
        self.reading = reading
        self._unread = unread
        self.found: list[Plugin] = []
        self.declared: list[type[Group]] = []
        self.usual: Collection[str] | None = None

    def make(self, groups: Collection[type[Group]], chats: Chats) -> None:
        """Select all. ``groups``: those of processors."""
        parts = self.reading.parse(PartsSettings)
        if parts is not None:
            source = self._select("sources", parts.task_source)
            self.usual = getattr(source, "task_types", None)
            self.reading.default(getattr(source, "defaults", {}))
            parts = self.reading.parse(PartsSettings)
        if parts is not None:
            self._select("providers", parts.embedding_provider)
            self._select("stores", parts.store)
            for name in parts.sinks:
                self._select("sinks", name)
            if parts.task_types or chats(parts, self.usual):
                self._select("providers", parts.chat_provider, "chat_groups")
        self.declared += groups

    def _select(self, kind: Kind, name: str, attribute: str = "settings_groups") -> object:
        try:
            plugin = find(kind, name)
            loaded = plugin.load()
        except ConfigurationError as error:
            self.reading.problems += error.problems
            return None
        self.declared.extend(() if kind in self._unread else getattr(loaded, attribute, ()))
        self.found.append(plugin)
        return loaded


def load_selected(
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    *,
    groups: Collection[type[Group]] = (),
    chats: Chats = lambda *_: False,
    unread: Collection[Kind] = (),
) -> tuple[Settings, Selected]:
    """The settings of this process, and the components that they select.

    ``groups``: those of processors. ``unread``: the kinds of components whose own settings are not read.

    Raises ``ConfigurationError`` with a line for every mistake.
    """
    selection = _Selection(Reading(environ, dotenv), unread)
    selection.make(groups, chats)
    settings = replace(selection.reading.settings(selection.declared), usual_types=selection.usual)
    source, provider, store, *sinks = selection.found
    chat = sinks.pop() if len(sinks) > len(settings.parts.sinks) else None
    return settings, Selected(source=source, provider=provider, chat=chat, store=store, sinks=sinks)


def read_selected(
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    *,
    groups: Collection[type[Group]] = (),
    chats: Chats = lambda *_: False,
) -> tuple[Reading, Sequence[type[Group]]]:
    """The same before anything is parsed: where values come from, whether they are right or wrong, and the groups."""
    selection = _Selection(Reading(environ, dotenv))
    selection.make(groups, chats)
    return selection.reading, list(dict.fromkeys(selection.declared))
