"""Profiles of the kind ``periodic``: the one that is built in, and every mistake in one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import built_in_groups, find, load_selected
from ai_task_processor.core.profiles import FOLDER
from ai_task_processor.core.variables import variables
from ai_task_processor.sources.periodic.settings import PeriodicSettings
from ai_task_processor.sources.periodic.source import PeriodicSource
from tests.helpers import services
from tests.unit import packages
from tests.unit.packages import Install

install = packages.install

DUE_SOON = (FOLDER / "due-soon.toml").read_text()
API = {"API_BASE_URL": "https://api.test", "API_SECRET": "s3cret-of-the-api"}


def problems(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        call()
    return list(caught.value.problems)


def test_the_built_in_profile() -> None:
    """It has the source's name and type, needs the secret, and sets only variables that exist."""
    source = find("sources", "due-soon").load()
    assert (source.name, source.task_types) == ("due-soon", {"reminder"})
    assert source.settings_groups == (PeriodicSettings,)
    assert source.profile.sinks == ("kafka", "smtp")


@pytest.mark.parametrize("set_below", [False, True])
def test_a_profile_says_what_is_used_when_nothing_is_set(install: Install, tmp_path: Path, set_below: bool) -> None:
    """Sinks and other settings; the environment and ``.env`` win, and what is read later has the same defaults."""
    install("sinks", quiet=type("Quiet", (), {}), other=type("Other", (), {}))
    file, dotenv = tmp_path / "mine.toml", tmp_path / ".env"
    file.write_text(DUE_SOON.replace('["kafka", "smtp"]', '["quiet", "other"]'))
    dotenv.write_text("SINKS=other\nPOLLING_INTERVAL_SECONDS=7\n" if set_below else "")
    settings, selected = load_selected({"TASK_SOURCE": str(file), **API}, dotenv)
    assert settings.parts.sinks == (("other",) if set_below else ("quiet", "other"))
    assert [plugin.entry_point.name for plugin in selected.sinks] == list(settings.parts.sinks)
    assert settings.worker.polling_interval_s == (7 if set_below else 60)
    assert settings.defaults["KAFKA_TOPIC"] == "reminders"
    above = {"TASK_SOURCE": str(file), "SINKS": "quiet", "POLLING_INTERVAL_SECONDS": "9", **API}
    settings, _ = load_selected(above, dotenv)
    assert (settings.parts.sinks, settings.worker.polling_interval_s) == (("quiet",), 9)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "window_minutes = 30",
            "window_minutes = 0",
            "list.window_minutes: must be greater than or equal to 1",
        ),
        ("window_minutes = 30\n", "", "list.window_minutes is missing: add it"),
        ('path = "/api/internal/tasks/due-soon"', 'path = "due"', "list.path: must be a path that begins with a slash"),
        ('items = "/tasks"', 'items = "tasks"', "list.items: must be a JSON pointer, such as /data/id"),
        ('time_zone = "UTC"', 'time_zone = "Mars/Base"', "fields.time_zone: must be a time zone such as"),
        ('"{secret}"', '"{password}"', "headers: {password} is unknown: there is {secret}"),
        ('"{window_minutes}"', '"{window}"', "list.query: {window} is unknown: there is {window_minutes}"),
        ("users/{user_id}/email", "users/email", "addresses.path: must name one field of the result"),
        ('{12}"', '{12}("', "addresses.pattern: must be a regular expression"),
        ('["reminder"]', '["reminder", "chat"]', "types: must have one type, that of all tasks"),
        ("drop_after_s = 86400", "drop_after_s = -1", "drop_after_s: must be greater than or equal to 0"),
        ("[headers]", "[header]", "header is no key of a profile: remove or correct it"),
        ('KAFKA_TOPIC = "reminders"', "KAFKA_TOPIC = 5", "settings.KAFKA_TOPIC: must be a valid string"),
    ],
)
def test_a_mistake_in_a_profile_is_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    file = tmp_path / "mine.toml"
    assert old in DUE_SOON
    file.write_text(DUE_SOON.replace(old, new))
    lines = problems(lambda: load_selected({"TASK_SOURCE": str(file), **API}, None))
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"POLLING_INTERVAL_SECONDS": "900"}, []),
        ({"POLLING_INTERVAL_SECONDS": "901"}, ["POLLING_INTERVAL_SECONDS must be at most 900, because the profile"]),
        ({"API_SECRET": ""}, ["API_SECRET is missing: set it to the secret that the task API takes in a header"]),
    ],
)
def test_the_secret_must_be_set_and_the_window_have_room_for_two_polls(
    changes: dict[str, str], told: list[str]
) -> None:
    source: type[PeriodicSource] = find("sources", "due-soon").load()
    given = services(API | changes, source, memory=object())
    if not told:
        source.build(given)
    else:
        lines = problems(lambda: source.build(given))
        assert [line[: len(text)] for line, text in zip(lines, told, strict=True)] == told


def test_settings_of_built_in_profiles_exist() -> None:
    known = {variable.name for variable in variables(built_in_groups())}
    assert find("sources", "due-soon").load().defaults.keys() - known <= {"KAFKA_TOPIC"}  # of a sink
