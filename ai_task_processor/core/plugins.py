"""Plug-ins: finds the class of a source, store, sink or provider by its name in the settings, and all processors.

An installed package registers its classes as entry points (``ai_task_processor.sources`` and so on); their
``settings_groups`` declare the settings that they read. The built-ins are listed here, so that a checkout works without
installation, and in ``pyproject.toml``. Built-in processors are listed in ``ProcessorFactory``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Literal

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.settings import PartsSettings, Reading, Settings

Kind = Literal["sources", "stores", "sinks", "processors", "providers"]

PACKAGE: Final = "ai-task-processor"
BUILT_IN: Mapping[Kind, Mapping[str, str]] = {
    "sources": {"aletheia": "ai_task_processor.sources.nestjs.source:NestTaskSource"},
    "providers": {
        "mock": "ai_task_processor.providers.mock:MockProvider",
        "openai": "ai_task_processor.providers.rotating:RotatingProvider",
    },
    "stores": {"sqlite": "ai_task_processor.stores.sqlite.store:SqliteStore"},
    "sinks": {},
    "processors": {},
}
#: the noun for one of the kind, and the variable that selects it
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "sources": ("source", "TASK_SOURCE"),
    "providers": ("provider", "EMBEDDING_PROVIDER or CHAT_PROVIDER"),
    "stores": ("store", "STORE"),
    "sinks": ("sink", "SINKS"),
    "processors": ("processor", ""),
}


@dataclass(frozen=True, slots=True)
class Plugin:
    """A class that can be loaded by its name."""

    kind: Kind
    entry_point: EntryPoint
    package: str

    def __str__(self) -> str:
        return f"the {_WORDS[self.kind][0]} {self.entry_point.name!r} of the package {self.package!r}"

    def unusable(self, reason: str) -> ConfigurationError:
        """The error for a plug-in that cannot be used."""
        return ConfigurationError(f"{self} {reason}: mend or uninstall that package")

    def load(self) -> Any:
        """The class. Raises ``ConfigurationError``."""
        try:
            return self.entry_point.load()
        except (Exception, SystemExit) as error:
            raise self.unusable(f"cannot be loaded ({type(error).__name__})") from error


def installed(kind: Kind) -> Sequence[Plugin]:
    """All of a kind, sorted by name. Raises ``ConfigurationError`` when two packages use the same name."""
    group = f"ai_task_processor.{kind}"
    found = [Plugin(kind, EntryPoint(name, value, group), PACKAGE) for name, value in BUILT_IN[kind].items()]
    others = ((each, getattr(each.dist, "name", "unknown")) for each in entry_points(group=group))
    found += [Plugin(kind, each, package) for each, package in others if package != PACKAGE]
    by_name: dict[str, Plugin] = {}
    for plugin in sorted(found, key=lambda plugin: plugin.entry_point.name):
        first = by_name.setdefault(plugin.entry_point.name, plugin)
        if first is not plugin:
            raise ConfigurationError(f"{first} is in the package {plugin.package!r}, too: uninstall one of them")
    return list(by_name.values())


def load(kind: Kind, name: str) -> Any:
    """The class that a setting selects by name. Raises ``ConfigurationError``."""
    plugins = installed(kind)
    for plugin in plugins:
        if plugin.entry_point.name == name:
            return plugin.load()
    word, variable = _WORDS[kind]
    names = ", ".join(plugin.entry_point.name for plugin in plugins) or "none"
    raise ConfigurationError(f"{variable} names no {word} that is installed: {name!r}; there are {names}")


def groups_of(components: Iterable[object]) -> Iterator[type[Group]]:
    """The groups of settings that components declare."""
    for component in components:
        yield from getattr(component, "settings_groups", ())


def chat_groups_of(provider: object) -> Sequence[type[Group]]:
    """The groups of settings that a provider declares for chat."""
    return getattr(provider, "chat_groups", ())


def built_in_groups() -> Sequence[type[Group]]:
    """The groups of every built-in, for documentation and tests."""
    components = [load(kind, name) for kind, names in BUILT_IN.items() for name in names]
    factory = EntryPoint("processors", "ai_task_processor.processors.factory:ProcessorFactory", "").load()
    components += factory().processors
    return list(dict.fromkeys(group for each in components for group in (*groups_of([each]), *chat_groups_of(each))))


@dataclass(frozen=True, slots=True)
class Selected:
    """The classes of the components that the settings select.

    ``provider``: of embeddings; ``chat``: of chat models, None when nothing needs one.
    """

    source: Any
    store: Any
    sinks: Sequence[Any]
    provider: Any
    chat: Any


def load_selected(
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    *,
    groups: Collection[type[Group]] = (),
    chats: Callable[[PartsSettings], bool] = lambda _: False,
) -> tuple[Settings, Selected]:
    """The settings of this process, and the components that they select.

    ``groups``: those of processors; ``chats``: whether some of them use chat models, given which types are enabled.

    Raises ``ConfigurationError`` with a line for every mistake.
    """
    reading = Reading(environ, dotenv)
    parts = reading.parse(PartsSettings)
    chosen: list[tuple[Kind, str]] = []
    if parts is not None:
        chosen = [("sources", parts.task_source), ("providers", parts.embedding_provider), ("stores", parts.store)]
        chosen += [("sinks", name) for name in parts.sinks]
    found = []
    for kind, name in chosen:
        try:
            found.append(load(kind, name))
        except ConfigurationError as error:
            reading.problems += error.problems
    chat = None
    if parts is not None and (parts.task_types or chats(parts)):
        try:
            chat = load("providers", parts.chat_provider)
        except ConfigurationError as error:
            reading.problems += error.problems
    settings = reading.settings([*groups_of(found), *chat_groups_of(chat), *groups])
    source, provider, store, *sinks = found
    return settings, Selected(source=source, provider=provider, chat=chat, store=store, sinks=sinks)
