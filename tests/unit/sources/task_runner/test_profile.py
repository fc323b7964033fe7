"""What a profile of the kind ``task-runner`` may say."""

from pathlib import Path

import pytest

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.profiles import FOLDER
from ai_task_processor.sources.task_runner.statements import RunnerStatements

TEXT = (FOLDER / "task-runner.toml").read_text()
OLDER = """
kind = "task-runner"
types = ["echo"]
tables = { tasks = "Odd.tasks" }
[queues.all]
queue = "task_queue"
processing = "task_processing"
ids = "task_queue:set"
"""


def described(folder: Path, text: str) -> type:
    (file := folder / "mine.toml").write_text(text)
    return plugins.find("sources", str(file)).load()  # type: ignore[no-any-return]


def test_an_older_generation(tmp_path: Path) -> None:
    """Other keys and tables; every type is in the one queue."""
    profile = described(tmp_path, OLDER).profile  # type: ignore[attr-defined]
    assert profile.queue_of("knowledge_promote") == profile.queue_of("echo") == profile.queues["all"]
    assert b'FROM "Odd"."tasks"' in RunnerStatements(profile.tables).pages[False, False]


def test_the_queue_of_a_type(tmp_path: Path) -> None:
    profile = described(tmp_path, TEXT).profile  # type: ignore[attr-defined]
    assert profile.queue_of("knowledge_promote").queue == "queue_promote"
    assert profile.queue_of("echo").queue == profile.queue_of("import_mail").queue == "queue_query"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('types = ["knowledge_promote"]\n', ""),
        ("[queues.query]\nqueue", '[queues.query]\ntypes = ["echo"]\nqueue'),
        ('tasks = "tasks"', 'tasks = "a.b.c"'),
        ('prefix = "tasks/"', 'prefix = "/tasks"'),
        ('ids = "queue_promote:set"\n', ""),
    ],
)
def test_a_mistake_has_its_line(old: str, new: str, tmp_path: Path) -> None:
    assert old in TEXT
    with pytest.raises(ConfigurationError) as raised:
        described(tmp_path, TEXT.replace(old, new, 1))
    assert len(raised.value.problems) == 1
