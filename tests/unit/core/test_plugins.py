"""Plug-ins: a name in the settings becomes a class, and every way in which it cannot is one line."""

import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.plugins import Kind, Plugin, built_in_groups, installed, load, load_selected
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.processors.chat.aletheia.settings import AletheiaSettings
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.fetch.settings import FetchSettings
from ai_task_processor.processors.limits import LimitSettings
from ai_task_processor.processors.search.settings import SearchSettings
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.rotating import RotatingProvider
from ai_task_processor.providers.settings import ChatSettings, ModelSettings
from ai_task_processor.sources.nestjs.settings import ApiSettings
from ai_task_processor.sources.nestjs.source import NestTaskSource
from ai_task_processor.stores.sqlite.settings import StoreSettings
from ai_task_processor.stores.sqlite.store import SqliteStore
from tests.unit import packages
from tests.unit.packages import Install


class FolderSettings(Group):
    folder: Path = setting("FOLDER", "the folder of tasks", ...)


class FolderSource:
    settings_groups: ClassVar = (FolderSettings,)


class NoSettings:
    """Needs none."""


install = packages.install


def problems(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        call()
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("sources", "aletheia", NestTaskSource),
        ("stores", "sqlite", SqliteStore),
        ("providers", "openai", RotatingProvider),
        ("providers", "mock", MockProvider),
    ],
)
def test_a_built_in_is_found_without_any_installation(install: Install, kind: Kind, name: str, found: object) -> None:
    """``python run.py`` in a checkout finds all built-ins, and other packages can add theirs."""
    assert load(kind, name) is found


def test_a_checkout_and_an_installation_have_the_same_built_ins() -> None:
    """The entry points in pyproject.toml equal the list in the code; processors are listed only in their factory."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    declared = {group.removeprefix("ai_task_processor."): found for group, found in project["entry-points"].items()}
    assert declared == {kind: dict(found) for kind, found in plugins.BUILT_IN.items() if found}
    assert project["name"] == plugins.PACKAGE


def test_our_own_entry_points_are_no_second_package(install: Install) -> None:
    """Installed, the built-ins are found twice, perhaps in another version: those of this code count."""
    install("stores", plugins.PACKAGE, sqlite=NoSettings)
    assert load("stores", "sqlite") is SqliteStore


def test_an_unknown_name_is_told_with_those_that_there_are(install: Install) -> None:
    """The line names the variable, what it says, and what it may say."""
    install("sources", folder=FolderSource)
    assert problems(lambda: load("sources", "x")) == [
        "TASK_SOURCE names no source that is installed: 'x'; there are aletheia, folder"
    ]
    assert problems(lambda: load("sinks", "s3\n")) == ["SINKS names no sink that is installed: 's3\\n'; there are none"]


def test_one_that_ends_the_process_when_it_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its exit code would be ours, without a word."""
    (tmp_path / "acme_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = Plugin("processors", EntryPoint("exits", "acme_exits:It", "ai_task_processor.processors"), "acme-exits")
    (line,) = problems(plugin.load)
    assert line.startswith("the processor 'exits' of the package 'acme-exits' cannot be loaded (SystemExit)")


def test_one_that_cannot_be_imported_names_its_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what its code said is in the line: it may be anything."""
    install("stores", "acme-store", memory=NoSettings)
    monkeypatch.delattr("acme_module.memory")
    (line,) = problems(lambda: load("stores", "memory"))
    origin, reason = "the store 'memory' of the package 'acme-store'", "cannot be loaded (AttributeError)"
    assert line == f"{origin} {reason}: mend or uninstall that package"


def test_a_name_in_two_packages_is_nobodys(install: Install) -> None:
    """Nobody has to guess which of the two is used, whether one is ours or not."""
    install("sources", "other", aletheia=FolderSource)
    both = "the source 'aletheia' of the package 'ai-task-processor' is in the package 'other', too"
    assert problems(lambda: load("sources", "aletheia")) == [f"{both}: uninstall one of them"]
    install("processors", "a", same=NoSettings)
    install("processors", "b", same=NoSettings)
    assert "'a' is in the package 'b', too" in problems(lambda: installed("processors"))[0]


def test_the_defaults_select_the_daemon_as_it_is(install: Install) -> None:
    """NestJS, SQLite, OpenAI, no sink; the groups of all of them are read."""
    given = {"API_BASE_URL": "https://api.test", "OAUTH2_TOKEN_URL": "https://id.test", "OAUTH2_CLIENT_ID": "i"}
    settings, selected = load_selected({**given, "OAUTH2_CLIENT_SECRET": "s"}, None)
    assert (selected.source, selected.store, selected.provider) == (NestTaskSource, SqliteStore, RotatingProvider)
    assert selected.sinks == []
    assert settings.components.keys() == {ApiSettings, AuthSettings, ModelSettings, StoreSettings}
    of_processors = {PromptSettings, AletheiaSettings, SearchSettings, FetchSettings, LimitSettings}
    assert set(built_in_groups()) - {ChatSettings} - of_processors == settings.components.keys()


def test_a_source_without_oauth2_asks_for_nothing_of_it(install: Install) -> None:
    """A daemon with another source needs neither OAUTH2_* nor API_BASE_URL, and does not look at them."""
    install("sources", folder=FolderSource)
    install("sinks", first=NoSettings, second=NoSettings)
    given = {"TASK_SOURCE": "folder", "FOLDER": "/tasks", "SINKS": "second,first", "API_BASE_URL": "nonsense"}
    settings, selected = load_selected({**given, "EMBEDDING_PROVIDER": "mock"}, None)
    assert (selected.source, selected.provider) == (FolderSource, MockProvider)
    assert [sink.__doc__ for sink in selected.sinks] == ["Needs none."] * 2
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
    (line,) = problems(lambda: load_selected({**given, **types}, None, chats=lambda _: not types))
    assert line.startswith("EMBEDDING_PROVIDER or CHAT_PROVIDER names no provider that is installed: 'none-such'")
    given["CHAT_PROVIDER"] = "openai"
    (line,) = problems(lambda: load_selected({**given, **types}, None, chats=lambda _: not types))
    assert line.startswith("CHAT_BASE_URL must be ")
    del given["CHAT_BASE_URL"]
    assert load_selected({**given, **types}, None, chats=lambda _: not types)[1].chat is RotatingProvider


def test_groups_of_processors_are_read_with_the_others(install: Install) -> None:
    install("sources", quiet=NoSettings)
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
