"""``ai-task-processor doctor`` in a process of its own: against a sandbox as it is, and with every fault."""

import asyncio
import datetime
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.contract.http.servers import Authority
from tests.e2e.conftest import Start, eventually, run_command

SECRETS = ("sandbox-secret", "sk-sandbox", "planted-client-secret", "sk-planted-key", "eyJhbGci")
#: for the visits that are not about the model: its client takes half of the time to import
MOCK = {"OPENAI_API_KEY": "your_openai_api_key_here", "OPENAI_BASE_URL": ""}


@dataclass(frozen=True)
class Run:
    """What one run said. ``lines`` are those of the checks, each with its remedy."""

    code: int
    text: str

    def line(self, mark: str, title: str, *words: str) -> str:
        """The one finding that begins so and holds all the words, with its remedy on the next line."""
        lines = re.split(r"\n(?=[^ ])", self.text)
        found = [line for line in lines if line.startswith(f"{mark} {title} ") and all(word in line for word in words)]
        assert len(found) == 1, f"{mark} {title} {words} in\n{self.text}"
        return found[0]

    @property
    def failures(self) -> int:
        return len(re.findall(r"^✗", self.text, re.MULTILINE))

    @property
    def verdict(self) -> str:
        return self.text.splitlines()[-1]


Doctor = Callable[..., Awaitable[Run]]
#: mark, title and words of a finding
Line = tuple[str, ...]


@pytest.fixture
def doctor(sandbox: Sandbox, tmp_path: Path) -> Doctor:
    """Runs the command; settings as keywords. No run may show a secret, whatever is wrong."""

    async def run(given: Mapping[str, str] | None = None, **changes: str) -> Run:
        settings = {"PYTHONIOENCODING": "utf-8", "DATA_DIR": str(tmp_path / "data")}
        settings |= {**(sandbox.environment() if given is None else given), **changes}
        ended = await run_command(tmp_path, settings, "doctor", timeout=40)
        text = ended.out + ended.err
        assert [secret for secret in SECRETS if secret in text] == []
        assert "Traceback" not in text
        return Run(ended.code, text)

    return run


async def test_a_right_configuration_is_ready(doctor: Doctor, sandbox: Sandbox, tmp_path: Path) -> None:
    """With everything in order each check passes, nothing is claimed, and only an empty directory stays."""
    ids = [sandbox.tasks.add(f"text {n}") for n in range(3)]
    run = await doctor()
    assert run.code == 0, run.text
    assert run.verdict == "Ready: start with `ai-task-processor run`"
    titles = [
        "configuration",
        "DNS",
        "connection",
        "token",
        "pending list",
        "report",
        "model",
        "clock",
        "data directory",
    ]
    assert list(dict.fromkeys(re.findall(r"^✓ (.+?)  ", run.text, re.MULTILINE))) == titles
    assert "tasks seen: 3 (all that is pending), can be processed here: 3" in run.text
    assert "\x1b" not in run.text
    stats = sandbox.stats
    assert (stats.token_requests, stats.polls, stats.patches, stats.model_calls) == (1, 1, 1, 0)
    assert all(task.patches == 0 for id_ in ids if (task := sandbox.tasks.find(id_)))
    assert all(task.state == "pending" for id_ in ids if (task := sandbox.tasks.find(id_)))
    assert list((tmp_path / "data").iterdir()) == []


async def test_a_plain_terminal_gets_plain_signs(doctor: Doctor) -> None:
    run = await doctor(**MOCK, PYTHONIOENCODING="ascii", OAUTH2_CLIENT_SECRET="planted-client-secret")
    assert run.text.isascii()
    assert "\nx token " in run.text
    assert "\n+ clock " in run.text


async def test_every_mistake_of_the_configuration_has_its_line(doctor: Doctor, tmp_path: Path) -> None:
    """All mistakes are told at once, each with its variable and no value; the rest is named as skipped."""
    run = await doctor({"API_BASE_URL": "http://api.example.com", "CONCURRENCY_LIMIT": "sk-planted-key"})
    assert run.code == 78
    for name in ("API_BASE_URL", "CONCURRENCY_LIMIT", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "ORY_PROJECT_SLUG"):
        finding, remedy = run.line("✗", "configuration", f"  {name} ").splitlines()
        assert name in remedy, finding
    run.line("-", "everything else", "skipped")
    assert run.verdict == f"{run.failures} problems found"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("changes", "code", "title", "words"),
    [
        ({"OAUTH2_CLIENT_SECRET": "planted-client-secret"}, 78, "token",
         ("invalid_client", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "OAUTH2_AUTH_METHOD")),
        ({"OAUTH2_TOKEN_URL": "{url}/wrong/token"}, 78, "token", ("404", "OAUTH2_TOKEN_URL")),
        ({"API_BASE_URL": "{url}/v2"}, 78, "pending list", ("404", "API_BASE_URL")),
        ({"API_BASE_URL": "http://127.0.0.1:1"}, 69, "connection", ("task API", "is it running?", "API_BASE_URL")),
        ({"API_BASE_URL": "https://nowhere.invalid"}, 69, "DNS", ("nowhere.invalid", "API_BASE_URL")),
        ({"OPENAI_API_KEY": "sk-planted-key"}, 78, "model", ("401", "OPENAI_API_KEY")),
        ({"DEFAULT_EMBEDDING_MODEL": "best-model"}, 78, "model",
         ("best-model", "DEFAULT_EMBEDDING_MODEL", "MODEL_ALIASES", "OPENAI_BASE_URL")),
        ({"MODEL_ALIASES": '{"a": "ghost"}'}, 78, "model", ("ghost", "MODEL_ALIASES")),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1"}, 69, "connection", ("model API", "OPENAI_BASE_URL")),
        ({"DATA_DIR": "/proc/version/data"}, 73, "data directory", ("/proc/version/data", "DATA_DIR")),
    ],
)  # fmt: skip
async def test_one_wrong_setting_is_named(
    doctor: Doctor, sandbox: Sandbox, changes: dict[str, str], code: int, title: str, words: tuple[str, ...]
) -> None:
    """A single mistake is the single failure, tells the setting to change, and leaves the other checks alone."""
    run = await doctor(**{name: value.replace("{url}", sandbox.url) for name, value in changes.items()})
    assert run.code == code, run.text
    _, remedy = run.line("✗", title, *words).splitlines()
    assert remedy.startswith("    ")
    assert run.failures == 1, run.text
    assert run.verdict == "1 problem found"


@pytest.mark.parametrize(
    ("fault", "code", "title", "words"),
    [
        ({"endpoint": "token", "status": 400, "code": "invalid_scope"}, 78, "token", ("invalid_scope", "OAUTH2_SCOPE")),
        ({"endpoint": "token", "status": 200, "body": "html"}, 78, "token", ("a web page", "OAUTH2_TOKEN_URL")),
        ({"endpoint": "token", "status": 503}, 69, "token", ("503", "OAUTH2_TOKEN_URL")),
        ({"endpoint": "token", "status": 403, "code": "access_denied"}, 78, "token",
         ("access_denied", "OAUTH2_AUDIENCE", "grant client_credentials")),
        ({"endpoint": "pending", "status": 308, "headers": {"Location": "https://127.0.0.1/x"}}, 78, "pending list",
         ("a redirect to https://127.0.0.1", "use https in API_BASE_URL")),
        ({"endpoint": "token", "status": 301, "body": "html", "headers": {"Location": "https://127.0.0.1/x"}}, 78,
         "token", ("a redirect to https://127.0.0.1", "use https in OAUTH2_TOKEN_URL")),
        ({"endpoint": "pending", "status": 401}, 78, "pending list", ("401", "OAUTH2_AUDIENCE", "OAUTH2_SCOPE")),
        ({"endpoint": "pending", "status": 403}, 78, "pending list", ("403", "OAUTH2_AUDIENCE", "OAUTH2_SCOPE")),
        ({"endpoint": "pending", "status": 200, "body": "html"}, 78, "pending list", ("a web page", "API_BASE_URL")),
        ({"endpoint": "pending", "status": 502, "body": "html"}, 69, "pending list", ("502",)),
        ({"endpoint": "patch", "status": 403}, 78, "report", ("403", "OAUTH2_SCOPE")),
        ({"endpoint": "patch", "status": 200, "body": "html"}, 78, "report", ("a web page", "API_BASE_URL")),
    ],
)  # fmt: skip
async def test_a_remote_that_misbehaves_is_told_from_a_wrong_setting(
    doctor: Doctor, sandbox: Sandbox, fault: dict[str, Any], code: int, title: str, words: tuple[str, ...]
) -> None:
    """A refusal of ours is 78 with the setting, a remote's own failure 69 with the remote."""
    sandbox.faults.add(**fault)
    run = await doctor(**MOCK)
    assert run.code == code, run.text
    run.line("✗", title, *words)
    assert run.failures == 1, run.text
    if title == "token":
        run.line("-", "pending list", "skipped: needs token")


FEW_SCOPES = '{"access_token": "opaque", "token_type": "bearer", "expires_in": 60, "scope": "read"}'


@pytest.mark.parametrize(
    ("fault", "changes", "code", "lines"),
    [
        pytest.param(
            {"endpoint": "token", "hang": True}, MOCK, 69,
            [("✗", "token", "no answer within 10 s", "OAUTH2_TOKEN_URL"), ("✓", "connection", "task API"),
             ("✓", "data directory")], id="a remote that hangs is left, and what does not need it is checked"),
        pytest.param(
            {"endpoint": "token", "content": FEW_SCOPES}, MOCK, 78,
            [("✓", "token", "for 60 s"), ("!", "token", "write", "OAUTH2_SCOPE")], id="a scope is withheld"),
        pytest.param(
            {}, {"OPENAI_BASE_URL": "{url}"}, 0,
            [("!", "model", "not verified", "404", "OPENAI_BASE_URL")], id="a base URL without its /v1 proves nothing"),
        pytest.param(
            {}, {**MOCK, "API_BASE_URL": "{tls}"}, 78,
            [("✗", "TLS", "speaks no TLS", "API_BASE_URL")], id="a wrong scheme is a setting, no outage"),
        pytest.param(
            {}, {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, 0,
            [("✓", "pending list", "can be processed here: 0"), ("!", "pending list", "text_embedding"),
             ("!", "model", "OPENAI_API_KEY")], id="without key and server embeddings stay"),
    ],
)  # fmt: skip
async def test_each_finding_has_its_line(
    doctor: Doctor,
    sandbox: Sandbox,
    fault: dict[str, Any] | None,
    changes: dict[str, str],
    code: int,
    lines: list[Line],
) -> None:
    """What is wrong, with the setting to change, what could not be verified, and what is well."""
    sandbox.tasks.add("a text")
    if fault:
        sandbox.faults.add(**fault)
    places = {"{url}": sandbox.url, "{tls}": sandbox.url.replace("http:", "https:")}
    run = await doctor(**{name: places.get(value, value) for name, value in changes.items()})
    assert run.code == code, run.text
    for line in lines:
        run.line(*line)


async def test_mock_mode_is_ready_with_a_warning(doctor: Doctor, sandbox: Sandbox) -> None:
    """The placeholder key is told, asks no model, and is no failure."""
    run = await doctor(**MOCK)
    assert run.code == 0
    run.line("!", "configuration", "mock")
    run.line("✓", "model", "mock")
    assert "Ready, with 1 warning" in run.verdict
    assert sandbox.stats.model_requests == 0


async def test_a_long_list_is_read_in_part(doctor: Doctor, sandbox: Sandbox) -> None:
    """Of a long list only the head is read, also when the API ignores the limit."""
    sandbox.api.limit = "ignored"
    for n in range(5_000):
        sandbox.tasks.add(f"text {n}" * 20)
    run = await doctor(**MOCK)
    run.line("✓", "pending list", "tasks seen: 200 (the head of the list), can be processed here: 200")


async def test_a_wrong_clock_is_told(doctor: Doctor, sandbox: Sandbox) -> None:
    """Clocks more than 30 s apart are a warning with the remedy, for each remote."""
    late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    date = {"Date": format_datetime(late, usegmt=True)}
    sandbox.faults.add("pending", content="[]", headers=date)
    sandbox.faults.add("patch", status=400, headers=date)
    run = await doctor(**MOCK)
    assert run.code == 0
    run.line("!", "clock", "task API", "ours, which is behind", "NTP")
    run.line("✓", "clock", "token endpoint")


async def test_several_faults_are_all_found(doctor: Doctor, sandbox: Sandbox) -> None:
    """One run finds them all, and what an operator has to mend decides the exit code."""
    sandbox.faults.add("pending", status=500)
    run = await doctor(OPENAI_API_KEY="sk-planted-key", DATA_DIR="/proc/version/data")
    assert run.code == 78
    assert run.verdict == "3 problems found"


async def test_foreign_types_and_unusable_records_are_counted(doctor: Doctor, sandbox: Sandbox) -> None:
    """Types without a processor are named, a few and harmless; records without a usable id are counted."""
    sandbox.tasks.add("a text", type="text-embedding")
    for name in ("\x1b[31mred", "b" * 100, "c", "d", "e"):
        sandbox.tasks.add("a text", type=name)
    sandbox.tasks.add("a text", id="../../admin")
    run = await doctor(**MOCK)
    assert run.code == 0
    run.line("✓", "pending list", "tasks seen: 7", "can be processed here: 1")
    run.line("!", "pending list", "5 are of types without a processor here: ?[31mred, bbb", ", c and 2 more")
    run.line("!", "pending list", "1 are records", "TASK_ID_PATTERN")
    assert "\x1b" not in run.text


async def test_a_running_daemon_is_seen_and_not_disturbed(
    doctor: Doctor, daemon: Start, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Beside a daemon: told so, with its waiting results; it goes on, and keeps what it had."""
    sandbox.faults.add("patch", status=500)
    sandbox.tasks.add("a text")
    process = await daemon()
    await process.status_when(lambda status: status["outbox"]["waiting"] == 1)
    run = await doctor(**MOCK, METRICS_PORT=str(process.port))
    run.line("✓", "daemon", "it answers 'running'")
    run.line("✓", "data directory", "a daemon is running on it")
    run.line("✓", "data directory", "results that wait for delivery: 1")
    assert run.verdict == "Ready, with 2 warnings: a daemon is running"
    sandbox.faults.clear()
    await eventually(lambda: sandbox.tasks.outcomes().get("succeeded") == 1, timeout=30)
    assert await process.stop() == 0
    before = sorted(file.name for file in (tmp_path / "data").iterdir())
    run = await doctor(**MOCK)
    run.line("✓", "data directory", "no daemon is running on it")
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == before


async def test_dead_letters_are_told(doctor: Doctor, daemon: Start, sandbox: Sandbox) -> None:
    """A result that was refused for good is a warning with the command that shows it."""
    sandbox.faults.add("patch", status=400)
    sandbox.tasks.add("a text")
    process = await daemon(**MOCK)
    await process.status_when(lambda status: status["outbox"]["dead_letters"] == 1)
    (await doctor(**MOCK)).line("!", "data directory", "dead letters: 1", "outbox list --dead")


STRANGER = """
from ai_task_processor.core.errors import Transient
from ai_task_processor.core.ports import Provider, Sink, Store, TaskSource
from ai_task_processor.processors.base import BaseProcessor, Check, Task, checks


class Part:
    def __init__(self, services=None):
        self.remote = checks.Remote(f"{self.name} server", f"{self.name.upper()}_URL", self.url)

    def remotes(self):
        return (self.remote,)

    def checks(self):
        return (Check(self.name, self.look, self.remote.setting, (self.remote,)),)


class Source(Part, TaskSource):
    name, url = "queue", "http://127.0.0.1:1/path"

    async def look(self):
        yield checks.ok("never asked")


class Kept(Part, Store):
    name, url = "database", "postgresql://me:planted-client-secret@localhost:1/db"
    outbox = journal = memory = steps = 0

    async def look(self):
        yield checks.ok("never asked")


class Written(Part, Sink):
    name, url = "bucket", "s3://localhost"

    async def look(self):
        raise Transient("the bucket is being moved")
        yield


class Model(Part, Provider):
    name, url = "oracle", "s3://localhost"

    async def look(self):
        yield {}["no key"]


class Worker(Part, BaseProcessor):
    name, url = "worker", "s3://localhost"

    async def look(self):
        yield checks.Listed([Task(id=name, type=name, content=None) for name in ("sleep", "other")], 2, True, "5 ms")
        yield checks.unusable("its folder is full", "make room")

    def can_process(self, task):
        return task.type == "sleep"

    async def process(self, task):
        raise NotImplementedError
"""


@pytest.fixture
def stranger(tmp_path: Path) -> str:
    """An installed package with one of each kind; the directory to put on the path."""
    info = tmp_path / "site" / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "acme.py").write_text(STRANGER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    kinds = {"sources": "Source", "stores": "Kept", "sinks": "Written", "providers": "Model", "processors": "Worker"}
    lines = [f"[ai_task_processor.{kind}]\nacme = acme:{name}\n" for kind, name in kinds.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    return str(tmp_path / "site")


async def test_components_of_strangers_are_checked_like_the_built_in(doctor: Doctor, stranger: str) -> None:
    """Whatever is selected says which servers it needs and what to check; a check that crashes ends only itself."""
    acme = {"TASK_SOURCE": "acme", "STORE": "acme", "SINKS": "acme", "EMBEDDING_PROVIDER": "acme"}
    run = await doctor(acme, PYTHONPATH=stranger)
    assert run.code == 78, run.text
    run.line("✓", "DNS", "queue server", "127.0.0.1")
    run.line("✗", "connection", "queue server: 127.0.0.1:1 refuses", "QUEUE_URL")
    run.line("✗", "connection", "database server: localhost:1 refuses", "DATABASE_URL")
    run.line("✓", "DNS", "bucket server", "localhost is")
    run.line("-", "queue", "skipped: needs connection of the queue server")
    run.line("✗", "bucket", "is being moved", "BUCKET_URL")
    run.line("✗", "oracle", "KeyError", "ORACLE_URL")
    run.line("✓", "worker", "tasks seen: 2 (all that is pending), can be processed here: 1 (5 ms)")
    run.line("!", "worker", "1 are of types without a processor here: other")
    run.line("✗", "worker", "its folder is full")
    titles = list(dict.fromkeys(re.findall(r"^. (.+?)  ", run.text, re.MULTILINE)))
    names = ["queue", "bucket", "oracle", "worker", "clock", "database"]
    assert titles == ["configuration", "DNS", "connection", *names]


async def test_results_of_another_source_are_told(
    doctor: Doctor, daemon: Start, sandbox: Sandbox, stranger: str
) -> None:
    """They stay in the outbox when another source is selected, and nothing delivers them."""
    sandbox.faults.add("patch", status=503)
    sandbox.tasks.add("a text")
    process = await daemon(**MOCK)
    await eventually(lambda: sandbox.stats.patches > 0)  # what is reported was stored before
    await process.kill()
    run = await doctor(**MOCK, PYTHONPATH=stranger, TASK_SOURCE="acme")
    run.line("!", "data directory", "results of other sources", "1 (aletheia)", "TASK_SOURCE")
    assert "wait for delivery" not in run.text


@asynccontextmanager
async def behind_tls(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A TLS terminator in front of a plain server; its URL."""
    host, port = url.removeprefix("http://").split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, inner_writer))
            group.create_task(pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("name", "days", "trusted", "code", "line"),
    [
        ("localhost", 90, True, 0, ("✓", "TLS", "task API", "TLSv1.3", "certificate expires in 90 days")),
        ("localhost", 3, True, 0, ("!", "TLS", "task API", "certificate expires in 3 days", "renewed")),
        ("localhost", -3, True, 69, ("✗", "TLS", "task API", "has expired")),
        ("elsewhere.example", 90, True, 78, ("✗", "TLS", "task API", "another host name", "API_BASE_URL")),
        ("localhost", 90, False, 78, ("✗", "TLS", "task API", "signed", "CA_BUNDLE")),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told_apart(
    doctor: Doctor, sandbox: Sandbox, tmp_path: Path, name: str, days: int, trusted: bool, code: int, line: Line
) -> None:
    """Expired, wrong name and unknown authority each have their sentence; a good one tells its remaining days."""
    who = Authority(tmp_path, name=name, days=days + 0.05)
    changes = {"CA_BUNDLE": str(who.pem)} if trusted else {}
    async with behind_tls(sandbox.url, who.context(itself=True)) as url:
        run = await doctor(**MOCK, API_BASE_URL=url, **changes)
    assert run.code == code, run.text
    run.line(*line)
    run.line("-" if code else "✓", "pending list")
