"""The factory: built-ins first, strangers by entry point, and nobody's bug stops the others."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import AiTaskProcessorError, ConfigurationError
from ai_task_processor.core.reading import load_settings
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.processors.base import BaseProcessor, TaskResult
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.processor import PromptProcessor
from ai_task_processor.processors.embedding.processor import TextEmbeddingProcessor
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.testing.context import processor_context
from tests.helpers import services
from tests.unit import packages
from tests.unit.conftest import FakeClock
from tests.unit.packages import Install
from tests.unit.processors.embedder import Embedder

install = packages.install
BUILT_IN = {"text_embedding", *aletheia.TYPES}


class Caption(BaseProcessor):
    """A stranger's processor; it would take embeddings, too."""

    task_types = frozenset({"caption"})
    hold: object = 0.0

    def can_process(self, task: Task) -> bool:
        return task.type in ("caption", TaskType.TEXT_EMBEDDING)

    def hold_s(self) -> float:
        if isinstance(self.hold, Exception):
            raise self.hold
        return cast("float", self.hold)

    async def process(self, task: Task) -> TaskResult:
        return TaskResult("a caption")


class Choosy(Caption):
    """Its author did not think of plain strings."""

    def can_process(self, task: Task) -> bool:
        return bool(cast("dict[str, object]", task.content)["wanted"])


class NeedsArguments(Caption):
    def __init__(self, address: str) -> None:
        self.address = address


def altered(**members: object) -> type[BaseProcessor]:
    return type("Altered", (Caption,), members)


def types_of_numbers(processor: BaseProcessor, _: object) -> None:
    processor.task_types = frozenset({5})  # type: ignore[arg-type]


def raising() -> BaseProcessor:
    raise AiTaskProcessorError("sk-secret")


Make = Callable[[], ProcessorFactory]


@pytest.fixture
def make(clock: FakeClock, install: Install) -> Make:
    def equipped() -> ProcessorFactory:
        factory = ProcessorFactory()
        factory.configure(load_settings({}, None, groups=()))
        factory.equip(processor_context(clock=clock, wait_s=1.0, embedder=cast("None", Embedder()), model_aliases={}))
        return factory

    return equipped


def task(kind: TaskType | str = TaskType.TEXT_EMBEDDING, content: object = "t") -> Task:
    return Task(id="a", type=kind, content=content)


def test_the_built_in_serves_embeddings(make: Make) -> None:
    """Without any package there is text embedding, and an unknown type is nobody's."""
    factory = make()
    assert isinstance(factory.find(task()), TextEmbeddingProcessor)
    assert factory.find(task("caption")) is None
    assert factory.task_types == BUILT_IN


def test_the_documented_recipe(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    """A new built-in is one line in the list: it is equipped and found like the others."""
    original = ProcessorFactory.__init__

    def with_one_line_more(self: ProcessorFactory) -> None:
        original(self)
        self._processors.append(Caption())

    monkeypatch.setattr(ProcessorFactory, "__init__", with_one_line_more)
    factory = make()
    found = factory.find(task("caption"))
    assert isinstance(found, Caption)
    assert found.kit.patience_s == 1.0


def test_an_installed_package_adds_its_processor(make: Make, install: Install) -> None:
    """It is loaded, told in the log and equipped, its types are known; a built-in keeps what both want."""
    install("processors", "captions", Caption=Caption)
    with capture_logs() as lines:
        factory = make()
    assert lines == [{"event": "plugin.loaded", "log_level": "info", "processor": "Caption", "package": "captions"}]
    assert isinstance(factory.find(task("caption")), Caption)
    assert isinstance(factory.find(task()), TextEmbeddingProcessor), "built-ins come first"
    assert factory.task_types == {*BUILT_IN, "caption"}


def test_strangers_come_in_the_order_of_their_names(make: Make, install: Install) -> None:
    """Which of two gets a task does not depend on how they were installed."""
    install("processors", "captions", B=Caption, A=type("First", (Caption,), {}))
    assert type(make().find(task("caption"))).__name__ == "First"


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (NeedsArguments, "cannot be loaded (TypeError)"),
        (raising, "cannot be loaded (AiTaskProcessorError)"),
        (object, "is not a BaseProcessor"),
        (lambda: Caption, "is not a BaseProcessor"),
        (BaseProcessor, "cannot be loaded (TypeError)"),
        (altered(task_types="caption"), "has task_types that is no set of texts"),
        (altered(task_types={5}), "has task_types that is no set of texts"),
        (altered(settings_groups=None), "has settings_groups that is no tuple of subclasses of Group"),
        (altered(configure=lambda *_: 1 / 0), "cannot be configured (ZeroDivisionError)"),
        (altered(configure=types_of_numbers), "has task_types that is no set of texts"),
    ],
)
def test_a_broken_package_stops_the_start(make: Make, install: Install, broken: object, problem: str) -> None:
    """One line names the processor, its package and the remedy, and nothing of what the code said."""
    install("processors", "captions", broken=broken)
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.problems == (
        f"the processor 'broken' of the package 'captions' {problem}: mend or uninstall that package",
    )


def test_a_missing_module_stops_the_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = EntryPoint("lost", "no_such_package:Processor", "ai_task_processor.processors")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [lost])
    with pytest.raises(ConfigurationError, match=r"'lost' .* 'unknown' cannot be loaded \(ModuleNotFoundError\)"):
        make()


def test_one_that_cannot_answer_spares_the_others(make: Make, install: Install) -> None:
    """A processor that raises when asked gets no task; the next one is asked, and the log is told once."""
    install("processors", "captions", A=Choosy, B=Caption)
    factory = make()
    with capture_logs() as lines:
        for _ in range(1_000):
            assert type(factory.find(task("caption"))) is Caption
    assert [(line["event"], line["processor"]) for line in lines] == [("plugin.failed", "Choosy")]
    assert type(factory.find(task("caption", {"wanted": True}))) is Choosy


@pytest.mark.parametrize("hold", [ValueError("no"), None, "soon", float("nan")])
def test_one_that_cannot_say_its_hold_gets_no_task(make: Make, install: Install, hold: object) -> None:
    """Admission would stumble over it for every listed task: it is passed over, and polling goes on."""
    install("processors", "captions", Caption=Caption)
    factory = make()
    caption = factory.find(task("caption"))
    assert isinstance(caption, Caption)
    caption.hold = hold
    with capture_logs():
        assert factory.find(task("caption")) is None or hold != hold
        assert factory.hold_s() == 0.0


def configured(factory: ProcessorFactory, **environ: str) -> ProcessorFactory:
    factory.configure(load_settings(environ, None, groups=factory.settings_groups))
    factory.equip(processor_context(chat=cast("None", Embedder()), embedder=cast("None", Embedder())))
    return factory


class Severity(Caption):
    """A stranger's processor of a type that is built in; it does not want every task of it."""

    task_types = frozenset({"defining_severity"})

    def can_process(self, task: Task) -> bool:
        return task.type == "defining_severity" and task.content == "mine"


def finder(factory: ProcessorFactory, name: str, content: object = "t") -> str | None:
    found = factory.find(task(TaskType.named(name), content))
    return None if found is None else type(found).__name__


def test_what_is_built_in_takes_no_type_of_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not of an installed package, a line of the user's or a file; the other types stay with it."""
    assert finder(configured(ProcessorFactory()), "defining_severity") == "AletheiaProcessor"
    (tmp_path / "mine.toml").write_text('type = "defining_topics"\ninstructions = "x"\n')
    factory = configured(ProcessorFactory(), TASK_TYPES=str(tmp_path))
    assert finder(factory, "defining_topics") == "PromptProcessor"
    assert finder(factory, "defining_severity") == "AletheiaProcessor"
    install("processors", "acme", Severity=Severity)
    factory = configured(ProcessorFactory())
    assert finder(factory, "defining_severity", "mine") == "Severity"
    assert finder(factory, "defining_severity", "yours") is None
    assert finder(factory, "identifying_data") == "AletheiaProcessor"
    original = ProcessorFactory.__init__

    def with_one_line_more(self: ProcessorFactory) -> None:
        original(self)
        self._processors.append(type("Own", (Caption,), {"task_types": {"identifying_data"}})())

    monkeypatch.setattr(ProcessorFactory, "__init__", with_one_line_more)
    assert finder(configured(ProcessorFactory()), "identifying_data") is None


def test_only_enabled_types_are_taken(tmp_path: Path) -> None:
    """By either spelling; what is left out needs no chat model and has no series. An unknown name is warned of."""
    factory = ProcessorFactory()
    configured(factory, ENABLED_TASK_TYPES="text-embedding,caption")
    assert factory.warnings == ["ENABLED_TASK_TYPES has types that no processor declares: caption"]
    assert factory.task_types == {"text_embedding"}
    assert (factory.chats, factory.services) == (False, [])
    assert [finder(factory, name) for name in ("text_embedding", "defining_severity")] == [
        "TextEmbeddingProcessor",
        None,
    ]
    factory = configured(ProcessorFactory(), ENABLED_TASK_TYPES="defining_severity")
    assert factory.task_types == factory.chat_types == {"defining_severity"}
    assert [finder(factory, name) for name in ("text_embedding", "defining_severity", "defining_topics")] == [
        None,
        "AletheiaProcessor",
        None,
    ]


@pytest.mark.parametrize(
    ("enabled", "needed"), [("", True), ("text_embedding", False), ("text_embedding,defining-topics", True)]
)
def test_whether_a_chat_model_is_needed(enabled: str, needed: bool) -> None:
    parts = load_settings({"ENABLED_TASK_TYPES": enabled}, None, groups=[]).parts
    assert ProcessorFactory().chats_with(parts) == needed


def test_claiming_is_held_only_when_nobody_can_work(make: Make, install: Install) -> None:
    """The shortest hold counts."""
    factory = make()
    embedding = factory.find(task())
    assert embedding is not None
    cast("Embedder", embedding.kit.embedder).held_s = 5.0
    assert factory.hold_s() == 5.0
    install("processors", "captions", Caption=Caption)
    with_caption = make()
    cast("Embedder", with_caption._processors[0].kit.embedder).held_s = 5.0
    assert with_caption.hold_s() == 0.0
    cast("Caption", with_caption.find(task("caption"))).hold = 3.0
    assert with_caption.hold_s() == 3.0


MORE = {"summarize", "chat", "echo", "sleep", "simulate", "search", "search_batch", "fetch_url"}


def started(**environ: str) -> ProcessorFactory:
    factory = ProcessorFactory()
    factory.configure(load_settings(environ, None, groups=factory.settings_groups))
    factory.equip(processor_context(environ, factory.settings_groups, chat=cast("None", object())))
    return factory


def test_more_types_are_off_until_they_are_named() -> None:
    """An API may have them for somebody else, and a daemon that only embeds needs no chat model for them."""
    usual = started()
    assert usual.task_types.isdisjoint(MORE)
    assert set(usual.services) & {"search", "fetch"} == set()
    assert [usual.find(task(name)) for name in MORE] == [None] * len(MORE)
    some = started(ENABLED_TASK_TYPES="text_embedding, echo")
    assert (set(some.task_types), some.chats) == ({"text_embedding", "echo"}, False)
    assert type(some.find(task("echo"))).__name__ == "EchoProcessor"
    assert some.find(task("sleep")) is None
    every = started(ENABLED_TASK_TYPES=",".join(MORE))
    assert (set(every.task_types), set(every.chat_types)) == (MORE, {"summarize", "chat"})
    parts = load_settings({"ENABLED_TASK_TYPES": "summarize"}, None, groups=[]).parts
    assert ProcessorFactory().chats_with(parts)


def test_a_source_names_its_usual_types() -> None:
    """Of built-ins; what the user adds is taken anyway, and ENABLED_TASK_TYPES goes first."""

    def found(usual: frozenset[str], **environ: str) -> set[str]:
        factory = ProcessorFactory()
        factory._processors.append(Caption())
        settings = load_settings(environ, None, groups=factory.settings_groups)
        factory.configure(replace(settings, usual_types=usual))
        assert factory.chats_with(settings.parts, usual) == factory.chats
        return set(factory.task_types)

    assert found(frozenset({"summarize"})) == {"summarize", "caption"}
    assert found(frozenset({"echo", "text_embedding"})) == {"echo", "text_embedding", "caption"}
    assert found(frozenset({"summarize"}), ENABLED_TASK_TYPES="echo,caption") == {"echo", "caption"}


def test_more_types_are_not_taken_from_others(
    monkeypatch: pytest.MonkeyPatch, install: Install, tmp_path: Path
) -> None:
    """Not from a package, a file of TASK_TYPES or a line in the factory, also when these refuse a task."""
    (tmp_path / "mine.toml").write_text('type = "summarize"\ninstructions = "x"\n')
    install("processors", "captions", Echo=type("Echo", (Choosy,), {"task_types": frozenset({"echo"})}))
    original = ProcessorFactory.__init__

    def with_one_line_more(self: ProcessorFactory) -> None:
        original(self)
        self._processors.append(Sleeper())

    monkeypatch.setattr(ProcessorFactory, "__init__", with_one_line_more)
    factory = started(ENABLED_TASK_TYPES=",".join(MORE), TASK_TYPES=str(tmp_path))
    assert type(factory.find(task("summarize"))) is PromptProcessor
    assert type(factory.find(task("sleep"))) is Sleeper
    assert type(factory.find(task("echo", {"wanted": True}))).__name__ == "Echo"
    assert factory.find(task("echo", {"wanted": False})) is None


class Sleeper(Caption):
    task_types = frozenset({"sleep"})

    def can_process(self, task: Task) -> bool:
        return task.type == "sleep"


def test_search_and_fetch_leave_their_types_to_others(make: Make, install: Install) -> None:
    """A plug-in, and a line in the factory, keep the types that they had before there were built-ins for them."""
    mine = type("Mine", (Caption,), {"task_types": frozenset({"search"}), "can_process": _of("search")})
    install("processors", "captions", Mine=mine)
    factory = ProcessorFactory()
    own = type("Own", (Caption,), {"task_types": frozenset({"fetch_url"}), "can_process": _of("fetch_url")})()
    factory._processors.append(own)
    environ = {"ENABLED_TASK_TYPES": "search,search_batch,fetch_url", "BRAVE_API_KEY": "key"}
    shared = services(environ, *map(type, factory.processors))
    factory.configure(shared.settings)
    factory.equip(processor_context(environ, factory.settings_groups, services=shared, metrics=shared.metrics))
    found = [type(factory.find(task(kind))).__name__ for kind in ("search", "search_batch", "fetch_url")]
    assert found == ["Mine", "SearchProcessor", "Own"]


def _of(name: str) -> Callable[[BaseProcessor, Task], bool]:
    return lambda _, task: task.type == name
