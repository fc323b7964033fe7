"""Profiles of the kind postgres: what may stand in one, every mistake at once, and names that are always quoted."""

from pathlib import Path

import pytest

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.profiles import FOLDER
from ai_task_processor.net.leases import LeaseSettings
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.sources.postgres import preparation
from ai_task_processor.sources.postgres.profile import PostgresProfile
from ai_task_processor.sources.postgres.source import PostgresSource
from ai_task_processor.sources.postgres.statements import Statements

GOOD = (FOLDER / "task-conversations.toml").read_text()


def load(folder: Path, text: str) -> type[PostgresSource]:
    file = folder / "mine.toml"
    file.write_text(text)
    found: type[PostgresSource] = plugins.find("sources", str(file)).load()
    return found


def test_the_built_in_profile() -> None:
    """It has the name of its file, and says which types are taken."""
    found = plugins.find("sources", "task-conversations").load()
    assert (found.name, found.task_types) == ("task-conversations", {"simulate"})
    assert found.settings_groups == (DatabaseSettings, LeaseSettings)
    assert found.profile.states.completed == "completed"
    assert dict(found.profile.children["conversations"].completed) == {"status": "processed"}


def test_a_profile_of_a_user_is_a_class_of_its_own(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD.replace('"tasks"', '"jobs"').replace("shared_with_others = true\n", ""))
    assert (found.name, found.profile.table, found.profile.shared_with_others) == ("mine", "jobs", False)
    assert plugins.find("sources", "task-conversations").load().profile.table == "tasks"


MISTAKES = """
kind = "postgres"
types = ["simulate"]
table = "a.b.c"
id_type = "bigint"
content = "title"
colour = "red"
notify = "50%"
[columns]
id = "id"
state = ""
owner = "id"
type = "kind"
[states]
pending = "waiting"
processing = "waiting"
[children.notes]
table = "notes"
columns = { text = "text" }
"""


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """With the line, the key and the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, MISTAKES)
    file = tmp_path / "mine.toml"
    assert [problem.removeprefix(f"TASK_SOURCE: {file}:") for problem in caught.value.problems] == [
        "4: table: must be a table, or schema.table",
        "5: id_type: must be 'integer', 'uuid' or 'text'",
        "7: colour is no key of a profile: remove or correct it",
        "8: notify: must be a name of at most 63 bytes, without %",
        "9: columns.created_at is missing: add it",
        "11: columns.state: must be a name of at most 63 bytes, without %",
        "12: columns.owner: must be another column than those of the other keys",
        "16: states.processing: must differ from the words of the other states",
        "17: children.notes.key is missing: add it",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('["simulate"]', '["one", "two"]'), "columns: type is missing: add it, or exactly one type to types"),
        (('owner = "', 'cancel = "stop"\nowner = "'), "states: cancelled is missing: columns.cancel needs a word"),
        (('description = "d', 'conversations = "d'), "children: conversations must not be a key of content, too"),
    ],
)
def test_parts_that_do_not_fit_together(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD.replace(*change))
    (line,) = caught.value.problems
    assert line.partition(": ")[2].partition(": ")[2].startswith(problem)


EVIL = 'x"; DROP TABLE tasks; --'


def test_names_and_words_are_always_quoted() -> None:
    """Whatever a profile says stays one identifier or one literal."""
    columns = {key: f"{key} {EVIL}" for key in ("id", "created_at", "state", "owner", "attempt", "result", "cancel")}
    child = {"table": EVIL, "key": EVIL, "order": [EVIL], "columns": {EVIL: EVIL}, "completed": {EVIL: "it's"}}
    profile = PostgresProfile.model_validate(
        {
            "kind": "postgres",
            "types": ["a"],
            "table": f"s.{EVIL}",
            "notify": "it's",
            "columns": columns,
            "content": {"it's": EVIL},
            "children": {"they're": child},
            "states": {"pending": "it's", "cancelled": EVIL},
        }
    )
    statements = Statements(profile)
    built = [value for value in vars(statements).values() if isinstance(value, bytes)]
    built += [*statements.pages.values(), *statements.end.values()]
    texts = [text.decode() for text in built] + [text for text, _ in preparation.statements(profile)]
    assert len(texts) >= 18
    for text in texts:
        bare = (
            text.replace('x""; DROP TABLE tasks; --', "")
            .replace("'" + EVIL + "'", "")
            .replace("it''s", "")
            .replace("they''re", "")
        )
        assert "DROP" not in bare
        assert bare.count('"') % 2 == bare.count("'") % 2 == 0


def test_what_a_preparation_does() -> None:
    """Indexes without blocking writers, and a trigger that fires for pending tasks only."""
    texts = [text for text, _ in preparation.statements(plugins.find("sources", "task-conversations").load().profile)]
    index, function = "CREATE INDEX CONCURRENTLY IF NOT EXISTS", "CREATE OR REPLACE FUNCTION"
    trigger, fires = "CREATE OR REPLACE TRIGGER", 'AFTER INSERT OR UPDATE OF "status" ON "tasks" FOR EACH ROW'
    when = """WHEN (NEW."status" = 'pending')"""
    body = "BEGIN PERFORM pg_notify('task_conversations', ''); RETURN NULL; END"
    assert texts == [
        f"""{index} "tasks_atp_pending" ON "tasks" ("created_at", "id") WHERE "status" = 'pending'""",
        f"""{index} "tasks_atp_processing" ON "tasks" ("processing_instance_id") WHERE "status" = 'processing'""",
        f"""{index} "conversations_atp_task_id" ON "conversations" ("task_id")""",
        f"""{function} "tasks_atp_notify"() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$""",
        f"""{trigger} "tasks_atp_notify" {fires} {when} EXECUTE FUNCTION "tasks_atp_notify"()""",
    ]
