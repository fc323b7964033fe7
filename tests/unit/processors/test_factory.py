"""The factory: built-ins first, strangers by entry point, and nobody's bug stops the others."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import AiTaskProcessorError, ConfigurationError
from ai_task_processor.core.settings import load_settings
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.processors.base import BaseProcessor, TaskResult
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.aletheia.settings import AletheiaSettings
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.embedding.processor import TextEmbeddingProcessor
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.testing.context import processor_context
from tests.unit import packages
from tests.unit.conftest import FakeClock
from tests.unit.packages import Install
from tests.unit.processors.embedder import Embedder

install = packages.install


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
    assert factory.task_types == {"text_embedding", *aletheia.TYPES}


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
    assert factory.task_types == {"text_embedding", *aletheia.TYPES, "caption"}


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
        make().configure(load_settings({}, None, groups=()))
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
    factory.configure(load_settings(environ, None, groups=[PromptSettings, AletheiaSettings]))
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
    with capture_logs() as lines:
        configured(factory, ENABLED_TASK_TYPES="text-embedding,caption")
    assert [line["reason"] for line in lines] == ["ENABLED_TASK_TYPES has types that no processor declares: caption"]
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
