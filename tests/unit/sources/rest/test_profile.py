"""Profiles of the kind ``rest``: what a file may say, and every mistake in it at once with its line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import find
from ai_task_processor.models.task import Completed, Failed, Failure, Outcome, Task, TaskResult, Usage, Vector
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.profile import PLACEHOLDERS, ReportPart, RestProfile
from ai_task_processor.sources.rest.settings import ApiSettings, SecretSettings
from ai_task_processor.sources.rest.wire import Invalid, Records

SMALL = """
kind = "rest"
types = ["echo"]
[list]
path = "/jobs"
items = "/data/jobs"
[fields]
id = "/job/id"
content = "/job/input"
state = "/job/state"
created_at = "/job/at"
timeout_s = "/job/timeout"
attempt_limit = "/job/tries"
priority = "/job/priority"
tenant = "/job/owner"
trace = "/job/trace"
strip = ["_*", "secret"]
[states]
pending = "waiting"
succeeded = "done"
failed = "error"
[report]
method = "POST"
path = "/jobs/{id}/result"
succeeded = { outcome = { status = "done", value = "{result}" } }
failed = { outcome = { status = "error", code = "{error.code}", why = "{error.text}" } }
"""


#: mistakes in many tables, some of which concern two keys
BAD = """kind = "rest"
types = "a"
auth = "basic"
[list]
pth = "/tasks"
query = { "per.page" = 1.5, of = ["x"] }
order = "newest_first"
paging = "page"
[fields]
id = "id"
strip = [1]
[states]
pending = 3
[report]
path = "/tasks"
succeeded = { a = [{ b = "{reslt}" }] }
failed = []
check_first = true
[claim]
mark = {}
exclusive = true
optional = true
[push]
[extra]
x = 1
"""


def loaded(folder: Path, text: str, name: str = "small.toml") -> Any:
    (file := folder / name).write_text(text)
    return find("sources", str(file)).load()


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        loaded(folder, text)
    return [line.replace(f"TASK_SOURCE: {folder}/", "") for line in raised.value.problems]


def test_a_file_is_a_source(tmp_path: Path) -> None:
    """Its name is the file's unless it says another; it needs only the settings of what it uses."""
    source = loaded(tmp_path, SMALL)
    assert (source.name, source.task_types) == ("small", {"echo"})
    assert list(source.settings_groups) == [ApiSettings]
    assert source.routes == [("/jobs", "GET"), ("/jobs/{id}/result", "POST")]
    more = 'name = "other"\nauth = "oauth2"\nheaders = { X-Key = "{secret}" }\n' + SMALL
    source = loaded(tmp_path, more)
    assert source.name == "other"
    assert list(source.settings_groups) == [ApiSettings, AuthSettings, SecretSettings]


@pytest.mark.parametrize("name", ["aletheia", "agents-playground"])
def test_the_built_in_ones(name: str) -> None:
    source = find("sources", name).load()
    assert source.name == name
    assert isinstance(source.profile, RestProfile)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('kind = "rest"', 'kind = "soap"'), ["small.toml:2: kind must be one of "]),
        (('path = "/jobs"\n', ""), ["small.toml:4: list.path is missing: add it"]),
        (('path = "/jobs"\n', 'path = "jobs?x=1"\n'), ["small.toml:5: list.path: must be a path that begins with /"]),
        (('items = "/data/jobs"', 'itmes = "/data"'), ["small.toml:6: list.itmes is no key of a profile: remove"]),
        (('id = "/job/id"', 'id = "job.id"'), ["small.toml:8: fields.id: must be a JSON pointer"]),
        (('types = ["echo"]', 'types = ["a", "b"]'), ["small.toml:7: fields: type is missing: add it, or exactly one"]),
        (('"/jobs/{id}/result"', '"/jobs/result"'), ["small.toml:24: report.path: must have {id} once"]),
        (('"{error.text}"', '"{reason}"'), ["small.toml:26: report.failed: has {reason}: there are "]),
        (('items = "/data/jobs"', 'paging = "cursor"'), ["small.toml:4: list.next: is missing: paging cursor needs"]),
        (('items = "/data/jobs"', 'paging = "page"'), ["small.toml:4: list.limit: is missing: paging page needs"]),
        (
            ("[report]", "[claim]\nmark = {}\nunmark = {}\nexclusive = true\noptional = true\n[report]"),
            ["small.toml:26: claim.optional: contradicts exclusive, because"],
        ),
        (('pending = "waiting"\n', ""), ["small.toml:18: states.pending is missing: add it"]),
        (
            ('method = "POST"', 'method = "GET"\nx = 1'),
            ["small.toml:23: report.method: ", "small.toml:24: report.x is no key of a profile: remove"],
        ),
    ],
)
def test_a_mistake_has_its_line_and_its_remedy(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in SMALL
    found = problems(tmp_path, SMALL.replace(*change))
    assert len(found) == len(expected)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    assert [line.removeprefix("small.toml:") for line in problems(tmp_path, BAD)] == [
        "2: types must be an array",
        "3: auth: must be 'oauth2' or 'none'",
        "4: list.path is missing: add it",
        "5: list.pth is no key of a profile: remove or correct it",
        "6: list.query.per.page: must be a text, a whole number, true or false",
        "6: list.query.of: must be a text, a whole number, true or false",
        "8: list.paging: page cannot be read with order newest_first: sort the list by a query",
        "10: fields.id: must be a JSON pointer, such as /data/id",
        "11: fields.strip.0: must be a valid string",
        "12: states.succeeded is missing: add it",
        "12: states.failed is missing: add it",
        "13: states.pending: must be a valid string",
        "15: report.path: must have {id} once",
        f"16: report.succeeded: has {{reslt}}: there are {', '.join(PLACEHOLDERS)}",
        "17: report.failed must be a table",
        "18: report.check_first: needs reread, the path of one task: add it",
        "19: claim.unmark is missing: add it",
        "22: claim.optional: contradicts exclusive, because without the mark a task could start twice: remove one",
        "23: push.path is missing: add it",
        "24: extra is no key of a profile: remove or correct it",
    ]


def test_a_source_needs_a_name_that_its_results_can_be_stored_under(tmp_path: Path) -> None:
    """The name of the file is the name of the source unless the profile has one."""
    with pytest.raises(ConfigurationError, match=r"My Shop\.toml:1: name is missing: add it, because the file's name"):
        loaded(tmp_path, SMALL, "My Shop.toml")
    assert loaded(tmp_path, 'name = "shop"\n' + SMALL, "My Shop.toml").name == "shop"


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    assert "is not valid TOML" in problems(tmp_path, "kind = ")[0]
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        find("sources", str(tmp_path / "none.toml"))


IDS = re.compile("[a-z0-9-]+")
JOB = {
    "id": 7, "state": "waiting", "at": "2026-02-01T10:00:00", "timeout": 30, "tries": 3, "priority": -1,
    "owner": "north", "trace": {"traceparent": "00-a-b-03", "other": "x"},
    "input": {"text": "t", "_trace": "x", "secret": "s"},
}  # fmt: skip


def job(tmp_path: Path, **changes: object) -> Task | Invalid:
    return Records(loaded(tmp_path, SMALL).profile, IDS).task({"job": {**JOB, **changes}})


def test_fields_are_found_by_their_pointers(tmp_path: Path) -> None:
    task = job(tmp_path)
    assert isinstance(task, Task)
    assert (task.id, task.type, task.content) == ("7", "echo", {"text": "t"})
    assert (task.timeout_s, task.attempt_limit, task.priority, task.tenant) == (30.0, 3, -1, "north")
    assert task.trace == {"traceparent": "00-a-b-03"}
    assert task.created_at is not None
    assert task.created_at.isoformat() == "2026-02-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "../x"}, Invalid("job.id is missing or does not match TASK_ID_PATTERN")),
        ({"id": True}, Invalid("job.id is missing or does not match TASK_ID_PATTERN")),
        ({"state": "done"}, Invalid("state is not pending", "7")),
    ],
)
def test_a_record_that_is_no_task(tmp_path: Path, changes: dict[str, object], expected: Invalid) -> None:
    assert job(tmp_path, **changes) == expected


@pytest.mark.parametrize(
    "nonsense",
    [{"timeout": "soon"}, {"timeout": -1}, {"timeout": 10**400}, {"tries": 0}, {"tries": "3"}, {"priority": True},
     {"owner": 5}, {"trace": "00"}, {"trace": {"traceparent": 1}}, {"at": "yesterday"}, {"at": 5}, {"input": None}],
)  # fmt: skip
def test_nonsense_in_an_optional_field_is_left_out(tmp_path: Path, nonsense: dict[str, object]) -> None:
    """A task is not refused for what it need not have."""
    task = job(tmp_path, **nonsense)
    assert isinstance(task, Task)
    names = {
        "timeout": "timeout_s",
        "tries": "attempt_limit",
        "owner": "tenant",
        "at": "created_at",
        "input": "content",
    }
    (name,) = nonsense
    assert getattr(task, names.get(name, name)) is None


def body(outcome: Outcome, **part: Any) -> Any:
    given = {
        "path": "/x/{id}",
        "succeeded": {"state": "done", "output": "{result}", "error": ""},
        "failed": {"state": "error", "error": "{error.text}"},
    }
    return json.loads(Bodies(ReportPart(**{**given, **part})).of(outcome))


DEEP: Any = 1
for _ in range(5):
    DEEP = {"a": [DEEP]}


def done(output: object) -> dict[str, object]:
    return {"state": "done", "output": output, "error": ""}


@pytest.mark.parametrize(
    ("outcome", "part", "expected"),
    [
        (Completed(TaskResult({"a": 1})), {}, done({"a": 1})),
        (Completed(TaskResult(vector=Vector(np.array([0.5, 1.0], "<f4").tobytes()))), {}, done([0.5, 1.0])),
        (Completed(TaskResult("text")), {"result_key": "result"}, done({"result": "text"})),
        (Completed(TaskResult({"a": "x\0y"})), {"without_nul": True}, done({"a": "xy"})),
        (Completed(TaskResult(DEEP)), {"max_levels": 10}, done(DEEP)),
        (
            Completed(TaskResult(DEEP)),
            {"max_levels": 9},
            {"state": "error", "error": "result_too_deep: the result is nested deeper than 9 levels"},
        ),
        (Completed(TaskResult({"a": '}{[["\\'})), {"max_levels": 1}, done({"a": '}{[["\\'})),
        (Completed(TaskResult(1)), {"succeeded": {"done": True}}, {"done": True}),
        (
            Completed(TaskResult("\0\0", usage=Usage(5, 2, 1))),
            {"succeeded": {"r": "{result}", "u": "{usage}"}},
            {"r": "\0\0", "u": {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 1, "total_tokens": 7}},
        ),
        (Completed(TaskResult(1)), {"succeeded": {"u": ["{usage}"]}}, {"u": [None]}),
        (Failed(Failure("empty", "no text")), {}, {"state": "error", "error": "empty: no text"}),
        (Failed(Failure("boom")), {}, {"state": "error", "error": "boom"}),
        (
            Failed(Failure("c", "m")),
            {"failed": {"e": "{error}", "l": ["{error.code}", "{error.message}", "x"]}},
            {"e": {"code": "c", "message": "m"}, "l": ["c", "m", "x"]},
        ),
    ],
)
def test_what_is_reported(outcome: Outcome, part: dict[str, Any], expected: object) -> None:
    assert body(outcome, **part) == expected


def test_a_failure_without_its_error() -> None:
    """For APIs that refuse keys they do not know; there is none when nothing would be left."""
    failed = {"state": "error", "error": {"code": "{error.code}"}}
    part: dict[str, Any] = {"path": "/x/{id}", "succeeded": {}, "failed": failed}
    assert Bodies(ReportPart(**part)).bare_failure == b'{"state":"error"}'
    for other in ({"error": "{error}"}, {"state": "error"}):
        assert Bodies(ReportPart(**{**part, "failed": other})).bare_failure is None
