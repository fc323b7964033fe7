"""``ai-task-processor sources check`` in a process of its own: it reads, and nothing else."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.conftest import MOCK, Finished, WatchedSandbox, run_command

DOCS = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text("utf-8")
HELPDESK = re.findall(r"<!-- example: profile -->\n```toml\n(.*?)```", DOCS, flags=re.DOTALL)[0]
SECRET = "planted-secret-of-the-desk"

Command = Callable[..., Awaitable[Finished]]


class Helpdesk:
    """The API of the example."""

    def __init__(self) -> None:
        self.jobs = {
            7: {"id": 7, "kind": "summarize", "state": "open", "opened_at": "2026-02-01T10:00:00Z",
                "payload": {"text": "The printer on the second floor …", "_user": 12}},
            8: {"id": 8, "kind": "refund", "state": "open", "payload": {"text": "x"}},
        }  # fmt: skip
        self.requests: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        if request.headers.get("Authorization") != f"Token {SECRET}":
            return web.json_response({"detail": "no"}, status=401)
        if request.method == "GET" and request.path == "/v1/jobs":
            jobs = [job for job in self.jobs.values() if job["state"] == request.query["state"]]
            return web.json_response({"jobs": jobs[: int(request.query["limit"])]})
        if found := re.fullmatch("POST /v1/jobs/([0-9]+)/outcome", f"{request.method} {request.path}"):
            self.jobs[int(found[1])] |= json.loads(await request.content.read())
            return web.Response(status=204)
        return web.json_response({"detail": "Not Found"}, status=404)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(web.Server(self.answer))
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def test_the_example_works_from_check_to_run(command: Command, tmp_path: Path) -> None:
    """The profile of the documentation, word for word: what ``check`` shows is what ``run`` then sends."""
    (tmp_path / "helpdesk.toml").write_text(HELPDESK)
    desk = Helpdesk()
    async with desk.running() as url:
        settings = {**MOCK, "API_BASE_URL": url, "API_SECRET": SECRET, "PYTHONIOENCODING": "utf-8"}
        checked = await command(settings, "sources", "check", "helpdesk.toml")
        assert checked.code == 0, checked.out
        assert desk.requests == ["GET /v1/jobs?state=open&limit=200"]
        assert not (tmp_path / "data").exists()
        for line in (
            "✓ profile         valid: helpdesk, of the kind rest",
            "✓ type            summarize: SummaryProcessor",
            "✓ task            7: summarize, created at 2026-02-01T10:00:00+00:00; SummaryProcessor takes it",
            '                  text (37 bytes) "The printer on the second floor …"',
            f'  on success      POST {url}/v1/jobs/7/outcome {{"state":"done","output":{{"example":"the result"}}}}',
            f'  on failure      POST {url}/v1/jobs/7/outcome {{"state":"broken","reason":"example_code: why it',
            "Start with TASK_SOURCE=helpdesk.toml ai-task-processor run",
        ):
            assert line in checked.out
            assert line.replace(url, "https://desk.example.com") in DOCS
        assert "- task            8: refund, created at an unknown time; left pending: no proc" in checked.out
        assert "_user" not in checked.out
        ran = await command({**settings, "TASK_SOURCE": "helpdesk.toml"}, "run", "--until-empty")
        assert ran.code == 0, ran.err
    assert desk.jobs[7]["state"] == "done"
    assert desk.jobs[7]["output"].keys() == {"summary"}  # type: ignore[attr-defined]  # the result of that type
    assert desk.jobs[8]["state"] == "open"
    assert SECRET not in checked.out + checked.err + ran.out + ran.err
    assert "printer" not in checked.err + ran.err


async def test_a_check_reads_and_does_nothing_else(sandbox: WatchedSandbox, tmp_path: Path) -> None:
    """Of all that is pending it says who takes it or why nobody does. The API sees one GET; nothing is stored."""
    taken = sandbox.tasks.add("a secret text " * 20)
    sandbox.tasks.add("x", type="strange")
    sandbox.tasks.add("x", id="../../etc")
    sandbox.tasks.add("x", type="summarize")
    settings = {**sandbox.environment(), **MOCK, "MARK_IN_PROGRESS": "true", "ENABLED_TASK_TYPES": ""}
    ended = await run_command(tmp_path, settings, "sources", "check", "aletheia", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert sandbox.requests == ["POST /oauth2/token", "GET /api/ai-tasks/pending?limit=200"]
    assert not (tmp_path / "data").exists()
    report: dict[str, Any] = json.loads(ended.out)
    tasks = {task["type"]: task for task in report["tasks"]}
    assert tasks["text_embedding"]["processor"] == "TextEmbeddingProcessor"
    assert tasks["text_embedding"]["content"]["text"]["bytes"] == 282
    assert len(tasks["text_embedding"]["content"]["text"]["begins"]) == 60
    assert tasks["strange"]["reason"].startswith("no processor takes its type")
    assert tasks["summarize"]["reason"].startswith("its type is built in and not enabled")
    assert report["unusable"] == [{"id": "", "reason": "_id is missing or does not match TASK_ID_PATTERN"}]
    url = f"PATCH {sandbox.url}/api/ai-tasks/{taken}"
    assert [(sent["when"], sent["request"]) for sent in report["sends"]] == [
        ("at the start", url), ("on success", url), ("on failure", url),
    ]  # fmt: skip
    assert report["sends"][0]["body"] == {"state": "in_progress"}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"API_BASE_URL": "http://127.0.0.1:1"}, 69, "✗ pending list    connection refused"),
        ({"API_SECRET": ""}, 78, "API_SECRET"),
        ({"ENABLED_TASK_TYPES": "echo"}, 0, "! task            nothing is pending"),
    ],
)
async def test_what_is_missing_is_told(
    command: Command, tmp_path: Path, changes: dict[str, str], code: int, words: str
) -> None:
    """An API that is away, a setting, tasks to look at."""
    (tmp_path / "helpdesk.toml").write_text(HELPDESK)
    desk = Helpdesk()
    desk.jobs.clear()
    async with desk.running() as url:
        settings = {**MOCK, "API_BASE_URL": url, "API_SECRET": SECRET, "PYTHONIOENCODING": "utf-8", **changes}
        ended = await command(settings, "sources", "check", "helpdesk.toml")
    assert ended.code == code, ended.out
    assert words in ended.out
