"""Plug-ins: finds the class of a source, store, sink or provider by its name in the settings, and all processors.

An installed package registers its classes as entry points (``ai_task_processor.sources`` and so on); their
``settings_groups`` declare the settings that they read. The built-ins are listed here, so that a checkout works without
installation, and in ``pyproject.toml``. Built-in processors are listed in ``ProcessorFactory``.
"""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Literal

from ai_task_processor.core.errors import ConfigurationError, DataDirectoryError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.ports import Provider, Sink, Store, TaskSource
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
    "providers": ("provider", "EMBEDDING_PROVIDER"),
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

    def __str__(self) -> str:
        return f"the {_WORDS[self.kind][0]} {self.entry_point.name!r} of the package {self.package!r}"

    def unusable(self, reason: str) -> ConfigurationError:
        """The error for a plug-in that cannot be used."""
        return ConfigurationError(f"{self} {reason}: mend or uninstall that package")

    def load(self) -> Any:
        """The class, with the methods of its kind. Raises ``ConfigurationError``."""
        try:
            found = self.entry_point.load()
        except (Exception, SystemExit) as error:
            raise self.unusable(f"cannot be loaded ({type(error).__name__})") from error
        if self.kind in _PORTS:
            if not isinstance(found, type):
                raise self.unusable("is not a class")
            self._require(found, (name for name in _members(self.kind) if _is_method(self.kind, name)))
            self.check_groups(found)
        return found

    def build(self, services: Any) -> Any:
        """An instance; None for a provider without a model. Raises ``ConfigurationError``, ``DataDirectoryError``."""
        try:
            made = self.load().build(services)
        except (ConfigurationError, DataDirectoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self.unusable(f"cannot be built ({type(error).__name__})") from error
        if made is None and self.kind != "providers":
            raise self.unusable("cannot be built (build() returned None)")
        if made is not None:
            self._require(made, _members(self.kind))
        return made

    def check_groups(self, component: object) -> None:
        """Raises ``ConfigurationError`` when ``settings_groups`` is no tuple of groups."""
        groups = getattr(component, "settings_groups", ())
        fine = isinstance(groups, Collection) and all(
            isinstance(each, type) and issubclass(each, Group) for each in groups
        )
        if not fine:
            raise self.unusable("has settings_groups that is no tuple of subclasses of Group")

    def _require(self, component: object, members: Iterable[str]) -> None:
        for name in members:
            method = _is_method(self.kind, name)
            if not (callable(getattr(component, name, None)) if method else _has(component, name)):
                raise self.unusable(f"is not a {_WORDS[self.kind][0]} (it has no {name}{'()' * method})")


def _members(kind: Kind) -> list[str]:
    """The public members of the port."""
    bases = [base for base in _PORTS[kind].__mro__ if base.__module__.startswith("ai_task_processor.")]
    names = (name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", ())))
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def _is_method(kind: Kind, name: str) -> bool:
    return callable(getattr(_PORTS[kind], name, None))


def _has(component: object, name: str) -> bool:
    """Whether it has an attribute, without calling a property."""
    missing = object()
    return inspect.getattr_static(component, name, missing) is not missing or hasattr(component, name)


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


def find(kind: Kind, name: str) -> Plugin:
    """The plug-in that a setting selects by name. Raises ``ConfigurationError``."""
    plugins = installed(kind)
    for plugin in plugins:
        if plugin.entry_point.name == name:
            return plugin
    word, variable = _WORDS[kind]
    said = f": {name!r}" if _PLAIN.fullmatch(name) else ""
    names = ", ".join(plugin.entry_point.name for plugin in plugins) or "none"
    raise ConfigurationError(f"{variable} names no {word} that is installed{said}; there are {names}")


def load(kind: Kind, name: str) -> Any:
    """The class that a setting selects by name. Raises ``ConfigurationError``."""
    return find(kind, name).load()


def groups_of(components: Iterable[object]) -> Iterator[type[Group]]:
    """The groups of settings that components declare."""
    for component in components:
        yield from getattr(component, "settings_groups", ())


def built_in_groups() -> Sequence[type[Group]]:
    """The groups of every built-in, for documentation and tests."""
    components = [load(kind, name) for kind, names in BUILT_IN.items() for name in names]
    return list(dict.fromkeys(groups_of(components)))


@dataclass(frozen=True, slots=True)
class Selected:
    """The plug-ins that the settings select; their classes were loaded."""

    source: Plugin
    store: Plugin
    sinks: Sequence[Plugin]
    provider: Plugin


def load_selected(
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    *,
    groups: Collection[type[Group]] = (),
) -> tuple[Settings, Selected]:
    """The settings of this process, and the components that they select. ``groups``: those of processors.

    Raises ``ConfigurationError`` with a line for every mistake.
    """
    reading = Reading(environ, dotenv)
    parts = reading.parse(PartsSettings)
    chosen: list[tuple[Kind, str]] = []
    if parts is not None:
        chosen = [("sources", parts.task_source), ("providers", parts.embedding_provider), ("stores", parts.store)]
        chosen += [("sinks", name) for name in parts.sinks]
    found, classes = [], []
    for kind, name in chosen:
        try:
            plugin = find(kind, name)
            classes.append(plugin.load())
            found.append(plugin)
        except ConfigurationError as error:
            reading.problems += error.problems
    settings = reading.settings([*groups_of(classes), *groups])
    source, provider, store, *sinks = found
    return settings, Selected(source=source, provider=provider, store=store, sinks=sinks)
