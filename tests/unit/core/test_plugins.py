"""Plug-ins: a name in the settings becomes a class, and every way in which it cannot is one line."""

import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import field_validator

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.plugins import Kind, Plugin, built_in_groups, find, installed, load_selected
from ai_task_processor.core.ports import Provider, Sink, Store, TaskSource
from ai_task_processor.net.leases import LeaseSettings
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.net.redis_settings import RedisSettings
from ai_task_processor.processors.chat.aletheia.settings import AletheiaSettings
from ai_task_processor.processors.chat.settings import PromptSettings, SummarySettings
from ai_task_processor.processors.fetch.settings import FetchSettings
from ai_task_processor.processors.limits import LimitSettings
from ai_task_processor.processors.search.settings import SearchSettings
from ai_task_processor.processors.simple import SimulationSettings
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.rotating import RotatingProvider
from ai_task_processor.providers.settings import ChatSettings, ModelSettings
from ai_task_processor.sinks.base import SinkSettings
from ai_task_processor.sources.periodic.settings import PeriodicSettings
from ai_task_processor.sources.rest.settings import ApiSettings, SecretSettings
from ai_task_processor.sources.rest.source import RestSource
from ai_task_processor.sources.task_runner.settings import ArtifactSettings, RunSettings
from ai_task_processor.stores.sqlite.settings import StoreSettings
from ai_task_processor.stores.sqlite.store import SqliteStore
from tests.helpers import without_origin
from tests.unit import packages
from tests.unit.packages import Install


class FolderSettings(Group):
    folder: Path = setting("FOLDER", "the folder of tasks", ...)


class QuietSource(TaskSource):
    """Needs no settings."""


class FolderSource(QuietSource):
    settings_groups: ClassVar = (FolderSettings,)


class NoSettings(Sink):
    """Needs none."""


install = packages.install


def problems(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        call()
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("sources", "aletheia", RestSource),
        ("stores", "sqlite", SqliteStore),
        ("providers", "openai", RotatingProvider),
        ("providers", "mock", MockProvider),
    ],
)
def test_a_built_in_is_found_without_any_installation(install: Install, kind: Kind, name: str, found: type) -> None:
    """``python run.py`` in a checkout finds all built-ins, and other packages can add theirs."""
    assert issubclass(find(kind, name).load(), found)


def test_a_checkout_and_an_installation_have_the_same_built_ins() -> None:
    """The entry points in pyproject.toml equal the list in the code; processors are listed only in their factory."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    declared = {group.removeprefix("ai_task_processor."): found for group, found in project["entry-points"].items()}
    assert declared == {kind: dict(found) for kind, found in plugins.BUILT_IN.items() if found}
    assert project["name"] == plugins.PACKAGE


def test_our_own_entry_points_are_no_second_package(install: Install) -> None:
    """Installed, the built-ins are found twice, perhaps in another version: those of this code count."""
    install("stores", plugins.PACKAGE, sqlite=NoSettings)
    assert find("stores", "sqlite").load() is SqliteStore


def test_an_unknown_name_is_told_with_those_that_there_are(install: Install) -> None:
    """The line names the variable, what it says, and what it may say."""
    install("sources", folder=FolderSource)
    there = "there are agents-playground, aletheia, due-soon, folder, task-conversations, task-runner"
    assert problems(lambda: find("sources", "x").load()) == [
        f"TASK_SOURCE names no source that is installed ('x'): {there}"
    ]
    there = "there are kafka, qdrant, s3, smtp, webhook"
    assert problems(lambda: find("sinks", "s3\n").load()) == [f"SINKS names no sink that is installed: {there}"]


def test_one_that_ends_the_process_when_it_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its exit code would be ours, without a word."""
    (tmp_path / "acme_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = Plugin("processors", EntryPoint("exits", "acme_exits:It", "ai_task_processor.processors"), "acme-exits")
    (line,) = problems(plugin.load)
    assert line.startswith("the processor 'exits' of the package 'acme-exits' cannot be loaded (SystemExit)")


def test_one_that_cannot_be_imported_names_its_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what its code said is in the line: it may be anything."""
    install("stores", "acme-store", memory=Store)
    monkeypatch.delattr("acme_module.memory")
    (line,) = problems(lambda: find("stores", "memory").load())
    origin, reason = "the store 'memory' of the package 'acme-store'", "cannot be loaded (AttributeError)"
    assert line == f"{origin} {reason}: mend or uninstall that package"


def test_a_name_in_two_packages_is_nobodys(install: Install) -> None:
    """Nobody has to guess which of the two is used, whether one is ours or not."""
    install("sources", "other", aletheia=FolderSource)
    both = "the source 'aletheia' of the package 'ai-task-processor' is in the package 'other', too"
    assert problems(lambda: find("sources", "aletheia").load()) == [f"{both}: uninstall one of them"]
    install("processors", "a", same=NoSettings)
    install("processors", "b", same=NoSettings)
    assert "'a' is in the package 'b', too" in problems(lambda: installed("processors"))[0]


def test_the_defaults_select_the_daemon_as_it_is(install: Install) -> None:
    """NestJS, SQLite, OpenAI, no sink; the groups of all of them are read."""
    given = {"API_BASE_URL": "https://api.test", "OAUTH2_TOKEN_URL": "https://id.test", "OAUTH2_CLIENT_ID": "i"}
    settings, selected = load_selected({**given, "OAUTH2_CLIENT_SECRET": "s"}, None)
    found = [plugin.load() for plugin in (selected.source, selected.store, selected.provider)]
    assert (found[0].name, found[0].__base__) == ("aletheia", RestSource)
    assert found[1:] == [SqliteStore, RotatingProvider]
    assert selected.sinks == []
    assert settings.components.keys() == {ApiSettings, AuthSettings, ModelSettings, StoreSettings}
    of_processors = {PromptSettings, AletheiaSettings, SummarySettings, SimulationSettings}
    of_processors |= {SearchSettings, FetchSettings, LimitSettings}
    others = {each for each in built_in_groups() if not issubclass(each, SinkSettings)}
    others -= {ChatSettings, PeriodicSettings, SecretSettings, DatabaseSettings, LeaseSettings, *of_processors}
    others -= {RedisSettings, ArtifactSettings, RunSettings}
    assert others == settings.components.keys()


def test_a_source_without_oauth2_asks_for_nothing_of_it(install: Install) -> None:
    """A daemon with another source needs neither OAUTH2_* nor API_BASE_URL, and does not look at them."""
    install("sources", folder=FolderSource)
    install("sinks", first=NoSettings, second=NoSettings)
    given = {"TASK_SOURCE": "folder", "FOLDER": "/tasks", "SINKS": "second,first", "API_BASE_URL": "nonsense"}
    settings, selected = load_selected({**given, "EMBEDDING_PROVIDER": "mock"}, None)
    assert (selected.source.load(), selected.provider.load()) == (FolderSource, MockProvider)
    assert [sink.entry_point.name for sink in selected.sinks] == ["second", "first"]
    assert settings[FolderSettings].folder == Path("/tasks")
    assert settings[ModelSettings].mode == "mock"
    assert settings.components.keys() == {FolderSettings, ModelSettings, StoreSettings}


@pytest.mark.parametrize("needed", ["TASK_TYPES", "chats"])
def test_the_provider_of_chat_is_selected_when_it_is_needed(needed: str) -> None:
    """By prompt types, or a processor; without them its settings are not read."""
    given = {"API_BASE_URL": "https://api.test", "OAUTH2_TOKEN_URL": "https://id.test", "OAUTH2_CLIENT_ID": "i"}
    given |= {"OAUTH2_CLIENT_SECRET": "s", "CHAT_BASE_URL": "nonsense", "CHAT_PROVIDER": "none-such"}
    assert load_selected(given, None)[1].chat is None
    types = {"TASK_TYPES": "types"} if needed == "TASK_TYPES" else {}
    (line,) = problems(lambda: load_selected({**given, **types}, None, chats=lambda *_: not types))
    assert line.startswith("EMBEDDING_PROVIDER or CHAT_PROVIDER names no provider that is installed ('none-such')")
    given["CHAT_PROVIDER"] = "openai"
    (line,) = problems(lambda: load_selected({**given, **types}, None, chats=lambda *_: not types))
    assert line.startswith("CHAT_BASE_URL must be ")
    del given["CHAT_BASE_URL"]
    selected = load_selected({**given, **types}, None, chats=lambda *_: not types)[1]
    assert selected.chat == find("providers", "openai")


def test_groups_of_processors_are_read_with_the_others(install: Install) -> None:
    install("sources", quiet=QuietSource)
    settings, _ = load_selected({"TASK_SOURCE": "quiet", "FOLDER": "/tasks"}, None, groups=[FolderSettings])
    assert settings[FolderSettings].folder == Path("/tasks")


def test_every_mistake_is_told_at_once(install: Install, tmp_path: Path) -> None:
    """Unknown names, values of the core and of the components that were found, and an unreadable file."""
    install("sources", folder=FolderSource)
    given = {"TASK_SOURCE": "folder", "STORE": "x", "SINKS": "a b", "TASK_TIMEOUT": "soon", "OPENAI_TIMEOUT": "soon"}
    lines = problems(lambda: load_selected(given, tmp_path))
    assert sorted(line.split()[0] for line in lines) == sorted(
        [str(tmp_path), "FOLDER", "OPENAI_TIMEOUT", "SINKS", "SINKS", "STORE", "TASK_TIMEOUT"]
    )


def test_a_quoted_name_is_a_mistake_of_its_own(install: Install) -> None:
    """``TASK_SOURCE="folder"`` out of a container's env file: the remedy, and nothing about what it might need."""
    (line,) = problems(lambda: load_selected({"TASK_SOURCE": '"folder"'}, None))
    assert line.startswith("TASK_SOURCE has a value in quotation marks")


class OtherGroups(QuietSource):
    settings_groups: ClassVar = (dict,)


class ForgottenComma(QuietSource):
    settings_groups: ClassVar = FolderSettings  # type: ignore[assignment]


class NoGroups(QuietSource):
    settings_groups: ClassVar = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (OtherGroups, "has settings_groups that is no tuple of subclasses of Group"),
        (ForgottenComma, "has settings_groups that is no tuple of subclasses of Group"),
        (NoGroups, "has settings_groups that is no tuple of subclasses of Group"),
    ],
)
def test_what_is_loaded_declares_groups(install: Install, found: object, reason: str) -> None:
    """One line, with the package and what is wrong."""
    install("sources", "acme-x", x=found)
    (line,) = problems(lambda: load_selected({"TASK_SOURCE": "x"}, None))
    assert line == f"the source 'x' of the package 'acme-x' {reason}: mend or uninstall that package"


class Broken(NoSettings):
    write = None  # type: ignore[assignment]


class Unordered(NoSettings):
    order = "later"  # type: ignore[assignment]


def bare(kind: type) -> object:
    """An instance, without its constructor."""
    return object.__new__(kind)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "cannot be built (build() returned None)"),
        (5, "is no sink (it has no aclose())"),
        (bare(FolderSource), "is no sink (it has no discard())"),
        (bare(Broken), "is no sink (it has no write())"),
        (bare(Unordered), "is no sink (its order is neither before_report nor after_report)"),
        (ZeroDivisionError("secret"), "cannot be built (ZeroDivisionError)"),
        (SystemExit(3), "cannot be built (SystemExit)"),
        (ConfigurationError("ACME is missing: set it"), ""),
    ],
)
def test_what_is_built_is_of_the_kind(install: Install, made: object, reason: str) -> None:
    """A wrong configuration stays the plug-in's own sentence."""

    def build(_: object) -> object:
        if isinstance(made, BaseException):
            raise made
        return made

    install("sinks", "acme-x", x=type("Built", (Sink,), {"build": staticmethod(build)}))
    (line,) = problems(lambda: find("sinks", "x").build(None))
    package = "the sink 'x' of the package 'acme-x'"
    assert line == (f"{package} {reason}: mend or uninstall that package" if reason else "ACME is missing: set it")


@pytest.mark.parametrize("found", [1, plugins, Group])
def test_what_is_no_component_cannot_be_built(install: Install, found: object) -> None:
    install("sources", "acme-x", x=found)
    (line,) = problems(lambda: find("sources", "x").build(None))
    assert line.startswith("the source 'x' of the package 'acme-x' cannot be built (AttributeError)")


def test_a_component_needs_no_base_of_ours(install: Install) -> None:
    """The members count, not what it inherits from; a property is not called."""
    members = {name: getattr(Sink, name) for name in dir(Sink) if not name.startswith("_")}
    alike = type(
        "Alike", (), {**members, "build": classmethod(lambda cls, _: cls()), "name": property(lambda _: 1 / 0)}
    )
    install("sinks", alike=alike)
    assert type(find("sinks", "alike").build(None)) is alike


def test_only_a_provider_may_be_nothing(install: Install) -> None:
    """No model is configured."""
    install("providers", x=type("Built", (Provider,), {"build": staticmethod(lambda _: None)}))
    assert find("providers", "x").build(None) is None
    assert find("providers", "x").build(None, "build_chat") is None


def test_a_provider_for_chat_is_checked_alike(install: Install) -> None:
    install("providers", "acme-x", x=type("Built", (Provider,), {"build_chat": staticmethod(lambda _: 1 / 0)}))
    (line,) = problems(lambda: find("providers", "x").build(None, "build_chat"))
    package = "the provider 'x' of the package 'acme-x'"
    assert line == f"{package} cannot be built (ZeroDivisionError): mend or uninstall that package"


def group(**members: object) -> type[Group]:
    """A group of settings of another package."""
    return type("Q", (Group,), {"__module__": "acme_q", "__annotations__": {"q": str}, **members})


def raising(error: Exception) -> object:
    def check(cls: object, value: str) -> str:
        raise error

    return field_validator("q")(classmethod(check))


def required(*_: object) -> list[str]:
    return ["NOPE"]


SECRET = "top-secret-value"
UNUSABLE = "the settings group 'Q' of the package 'acme_q' cannot be used ({}): mend or uninstall that package"


@pytest.mark.parametrize(
    ("members", "line"),
    [
        (
            {"q": setting("P", "it", "abc"), "__annotations__": {"q": int}},
            UNUSABLE.format("the default of q"),
        ),
        ({"q": setting("Q", "it"), "required": classmethod(required)}, UNUSABLE.format("KeyError")),
        ({"q": setting("Q", "it"), "required": classmethod(lambda *_: None)}, UNUSABLE.format("TypeError")),
        ({"q": setting("Q", "it"), "check": raising(TypeError(SECRET))}, UNUSABLE.format("TypeError")),
        (
            {"q": setting("Q", "it"), "check": raising(ValueError(f"is bad: {SECRET}"))},
            "Q is bad: ***",
        ),
        ({"q": setting("Q", "it"), "warnings": lambda self: 1 / 0}, UNUSABLE.format("ZeroDivisionError")),
    ],
)
def test_a_group_that_cannot_be_read_is_one_line(install: Install, members: dict[str, object], line: str) -> None:
    """It names the package and shows no value, whatever the plug-in says."""
    source = type("X", (QuietSource,), {"settings_groups": (group(**members),)})
    install("sources", x=source)
    (told,) = problems(lambda: load_selected({"TASK_SOURCE": "x", "Q": SECRET}, None))
    assert without_origin(told) == line


def test_mock_vectors_need_no_url(install: Install) -> None:
    install("sources", quiet=QuietSource)
    given = {"TASK_SOURCE": "quiet", "OPENAI_BASE_URL": "zz"}
    assert load_selected({**given, "EMBEDDING_PROVIDER": "mock"}, None)[0][ModelSettings].base_url is None
    assert problems(lambda: load_selected(given, None))[0].startswith("OPENAI_BASE_URL must be ")


@pytest.mark.parametrize(
    ("name", "shown"), [("nowhere", True), ("sk-proj-abcdef1234567890abcdef", False), ("two words", False)]
)
def test_a_name_that_may_be_a_secret_is_not_repeated(install: Install, name: str, shown: bool) -> None:
    """A key that was put into the wrong variable."""
    (line,) = problems(lambda: load_selected({"TASK_SOURCE": name}, None))
    assert (name in line) is shown
    assert line.endswith(": there are agents-playground, aletheia, due-soon, task-conversations, task-runner")
