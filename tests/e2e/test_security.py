"""The whole daemon, searched for secrets and user text, tempted by its environment, and flooded with hostile values."""

import asyncio
import base64
import json
import random
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ai_task_processor.providers.settings import PLACEHOLDER_KEY
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.tokens import Credentials
from tests.e2e.conftest import MODEL, WAKE_UPS, DaemonProcess, Start, eventually

PATHS = ("/health", "/ready", "/metrics", "/status")

CLIENT_SECRET = "c5!Planted/7Qx+=&%~'w"
MODEL_KEY = "sk-planted-Model-Key-9Zz"
ECHOED_KEY = "sk-proj-Echoed0f4f6T-zz"
PROXY_PASSWORD = "pr0xy-Planted-3Kd"
WAKE_TOKEN = "wake-Planted-8412973305"
TEXT = "text-of-a-user-Planted"
RESULT = "result-of-a-model-Planted"
BASIC = base64.b64encode(f"sandbox-client:{quote_plus(CLIENT_SECRET)}".encode()).decode()

#: what somebody else's code does with what it was trusted with
LEAKY = """
import asyncio, base64, logging, os, threading
from urllib.parse import quote, quote_plus
from ai_task_processor.processors.base import BaseProcessor, TaskError, TaskResult

log = logging.getLogger("acme")


def broken(*told):
    local = list(told)
    raise RuntimeError(f"broken by {local}") from ValueError(repr(local))


async def forgotten(*told):
    broken(*told)


class Leaky(BaseProcessor):
    task_types = frozenset({"leak"})

    def can_process(self, task):
        return task.type == "leak"

    async def process(self, task):
        secret, key = os.environ["OAUTH2_CLIENT_SECRET"], os.environ["OPENAI_API_KEY"]
        pair = f"{os.environ['OAUTH2_CLIENT_ID']}:{quote_plus(secret)}"
        basic = base64.b64encode(pair.encode()).decode()
        told = secret, key, basic, task.content["text"], task.content["answer"]
        match task.content["do"]:
            case "raise":
                broken(*told)
            case "log":
                log.debug("GET https://h.test/?api_key=%s&secret=%s", key, quote(secret, safe=""))
                log.warning("headers %r", {"Authorization": f"Basic {basic}", "X-Api-Key": key})
                log.warning(f"POST https://h.test/ client_secret={quote(secret, safe=chr(33) + chr(39))}")
                log.warning("proxy %s", os.environ["HTTPS_PROXY"])
                log.warning("token %s", os.environ["WAKE_TOKEN"], extra={"key": key})
                log.warning("echoed %s", b"Bearer abc.def-Planted")
            case "thread":
                thread = threading.Thread(target=broken, args=told)
                thread.start()
                thread.join()
            case "callback":
                asyncio.get_running_loop().call_soon(broken, *told)
            case "forget":
                asyncio.create_task(forgotten(*told))
            case "die":
                from ai_task_processor.engine.delivery import Delivery
                Delivery._start_due = forgotten
        return TaskResult({"answer": task.content["answer"]})
"""


@pytest.fixture
def leaky(install: Callable[..., Path]) -> Path:
    return install("acme_leaky", LEAKY, leaky="acme_leaky:Leaky")


def leak(sandbox: Sandbox, do: str) -> str:
    return sandbox.tasks.add(type="leak", content={"do": do, "text": TEXT, "answer": RESULT})


def readable(text: str) -> str:
    """The text as it is, and with the escapes of JSON undone, so that nothing hides behind a backslash."""
    unescaped = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
    return "\n".join([text, *_strings(unescaped)])


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _strings(part))
    elif isinstance(value, list):
        yield from (text for item in value for text in _strings(item))
    else:
        yield str(value)


def planted(sandbox: Sandbox) -> dict[str, str]:
    """Every secret, by the name under which a failure tells of it, and the pieces that would give it away."""
    vector = sandbox.vector(TEXT, MODEL)
    tokens = {
        f"part {n} of token {token[-4:]}": part for token in sandbox.tokens._valid_until for n, part in _parts(token)
    }
    return tokens | {
        "client secret": CLIENT_SECRET,
        "client secret, form-encoded": quote_plus(CLIENT_SECRET),
        "client secret, as browsers encode it": quote(CLIENT_SECRET, safe="!'~"),
        "client secret, in Basic": BASIC[24:-4],
        "model key": MODEL_KEY,
        "key echoed by the model": ECHOED_KEY,
        "password of the proxy": PROXY_PASSWORD,
        "token that wakes": WAKE_TOKEN,
        "bearer of a stranger": "abc.def-Planted",
        "text of a task": TEXT,
        "result of a task": RESULT,
        "vector in base64": base64.b64encode(vector).decode()[:40],
        "vector in digits": str(np.frombuffer(vector, "<f4")[0]),
    }


def _parts(token: str) -> list[tuple[int, str]]:
    return list(enumerate(token.split(".")))[1:]


async def served(worker: DaemonProcess) -> str:
    """All that the ops server says, wake-ups with the token in every place included."""
    answers = [await worker.get(path) for path in (*PATHS, f"/wake?token={WAKE_TOKEN}", f"/{WAKE_TOKEN}")]
    answers += [await worker.wake(token) for token in (WAKE_TOKEN, f"{WAKE_TOKEN}x")]
    return "\n".join(f"{answer.headers} {answer.text}" for answer in answers)


async def test_no_planted_secret_is_found_anywhere(
    sandbox: Sandbox, daemon: Start, leaky: Path, tmp_path: Path
) -> None:
    """DEBUG logs, probes, metrics, status, doctor, commands, a crash of every kind: 0 secrets, 0 user text."""
    sandbox.tokens.credentials = Credentials(client_secret=CLIENT_SECRET)
    sandbox.model.api_key = MODEL_KEY
    echo = {"error": {"message": f"Incorrect API key provided: {ECHOED_KEY}. {TEXT}", "code": "invalid_api_key"}}
    sandbox.faults.add("model", status=500, content=json.dumps(echo), times=1)
    nest = json.dumps({"statusCode": 409, "message": f"{TEXT} {RESULT} {CLIENT_SECRET}"})
    sandbox.faults.add("patch", status=409, content=nest, task_id=leak(sandbox, "refused"))
    oauth = json.dumps({"error": "server_error", "error_description": f"{BASIC} {CLIENT_SECRET}"})
    sandbox.faults.add("token", status=500, content=oauth, times=1)
    ids = [sandbox.tasks.add(text=TEXT), *(leak(sandbox, do) for do in ("raise", "log", ""))]
    sandbox.tasks.add_raw(b'{"_id":"../%b","type":"leak","content":"%b"}' % (CLIENT_SECRET.encode(), TEXT.encode()))
    secret = {"HTTPS_PROXY": f"http://user:{PROXY_PASSWORD}@127.0.0.1:1", "WAKE_TOKEN": WAKE_TOKEN}
    quick = {"POLLING_INTERVAL_SECONDS": 0.3, "RETRY_BACKOFF_FACTOR": 0.2}
    worker = await daemon(PYTHONPATH=leaky, LOG_LEVEL="DEBUG", **secret, **quick)
    await sandbox.tasks.settled(ids, timeout=40)
    await eventually(lambda: worker.events("delivery.refused"))
    said = {"served": await served(worker)}
    assert await eventually(lambda: worker.metric(WAKE_UPS)) == 1
    for name, arguments in {"doctor": ["doctor"], "list": ["outbox", "list"]}.items():
        finished = await worker.command(*arguments)
        said[name] = finished.out + finished.err
    # The rest of the crashes end a process of their own, on the same outbox.
    assert await worker.stop() == 0
    said["log"] = worker.log.read_text()
    for do in ("thread", "callback", "forget", "die"):
        leak(sandbox, do)
    crashed = await worker.command("run")
    assert crashed.code == 70
    said["crash"] = crashed.out + crashed.err
    told = [json.loads(line)["event"] for line in crashed.err.splitlines() if "RuntimeError" in line]
    assert told.count("daemon.crashed") == 2
    assert told.count("exception.caught") == 2

    secrets = planted(sandbox)
    assert len(secrets) >= 15
    assert said["log"].count("***") >= 6
    found = {
        f"{name} in {where}"
        for where, text in said.items()
        for name, secret in secrets.items()
        if secret in readable(text)
    }
    assert found == set()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert RESULT.encode() in kept
    on_disk = {name for name, secret in secrets.items() if secret.encode() in kept}
    assert on_disk <= {"text of a task", "result of a task", "vector in base64", "vector in digits"}


async def test_a_private_key_and_its_assertion_stay_inside(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """private_key_jwt at DEBUG, with an endpoint that echoes the key: no line of it, nothing signed with it."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "key.pem").write_text(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    sandbox.tokens.credentials = Credentials(public_key=public)
    sandbox.faults.add(
        "token", status=400, content=json.dumps({"error": "server_error", "error_description": pem}), times=1
    )
    settings = {"OAUTH2_AUTH_METHOD": "private_key_jwt", "OAUTH2_PRIVATE_KEY_FILE": tmp_path / "key.pem"}
    settings |= {"OAUTH2_CLIENT_SECRET": "", "LOG_LEVEL": "DEBUG", "OPENAI_API_KEY": PLACEHOLDER_KEY}
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, **settings)
    await sandbox.tasks.settled([sandbox.tasks.add(text="signed")], timeout=30)
    said = readable(worker.log.read_text()) + await served(worker)
    assert [line for line in pem.splitlines()[1:-1] if line in said] == []
    assert "eyJ" not in said
    assert "client_assertion" not in said


@asynccontextmanager
async def elsewhere() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port where nobody should be seen, and what was sent to it."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1000))
        writer.transport.abort()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def test_nothing_of_the_environment_but_the_settings_counts(
    sandbox: Sandbox, daemon: Start, tmp_path: Path
) -> None:
    """Proxies, a .netrc, other authorities, the model client's own variables, a umask of 000: none of them matters."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import os\nos.umask(0)\n")
    (site / ".netrc").write_text("default login somebody password else\n")
    (site / ".netrc").chmod(0o600)
    async with elsewhere() as (port, seen):
        address = f"http://127.0.0.1:{port}"
        tempting = dict.fromkeys(("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "https_proxy"), address)
        tempting |= {"HOME": str(site), "NETRC": str(site / ".netrc"), "SSL_CERT_FILE": "/dev/null"}
        tempting |= {"OPENAI_ORG_ID": "else", "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer else"}
        tempting |= {"OPENAI_LOG": "debug"}
        worker = await daemon(PYTHONPATH=site, POLLING_INTERVAL_SECONDS=0.3, LOG_LEVEL="DEBUG", **tempting)
        ids = [sandbox.tasks.add(text=f"text {number}") for number in range(5)]
        await sandbox.tasks.settled(ids, timeout=20)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert {mode for name, mode in modes.items()} == {0o600}
        assert {"lock", "outbox.db"} <= modes.keys()
        assert await worker.stop() == 0
    assert seen == []
    assert "Request options" not in worker.log.read_text()


async def test_hostile_names_leave_metrics_and_status_small(sandbox: Sandbox, daemon: Start) -> None:
    """Thousands of types, models and statuses: at most 700 series, 200 kB, and none of the names in them."""
    names = ["t-{}", '"{}\\n', "{}" + "x" * 200, "https://user:pass@host/{}", "é{}", "__proto__{}", "{{{}}}"]
    for number in range(3000):
        sandbox.tasks.add(type=f"Hostile{names[number % len(names)].format(number)}", content="a")
    models = [f"Hostile{names[n % len(names)].format(n)}" for n in range(300)]
    ids = [sandbox.tasks.add(text="a", model=model) for model in models]
    for number in range(100):
        sandbox.faults.add("patch", status=500 + number, times=1, task_id=ids[number])
    mock = {"OPENAI_API_KEY": PLACEHOLDER_KEY, "CIRCUIT_BREAKER_THRESHOLD": 1000}
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, CONCURRENCY_LIMIT=20, **mock)
    await eventually(lambda: sum(sandbox.tasks[task_id].state == "succeeded" for task_id in ids) == 300, timeout=60)
    body = (await worker.get("/metrics")).text
    assert len([line for line in body.splitlines() if not line.startswith("#")]) <= 700
    assert len(body) < 200_000
    assert "Hostile" not in body
    status = (await worker.get("/status")).text
    assert len(status) < 20_000
    assert "Hostile" not in status


async def test_five_hundred_bad_peers_do_not_lock_out_a_probe(sandbox: Sandbox, daemon: Start) -> None:
    """Silent, half a head, a byte now and then, half a body, answers never read, a megabyte of header: 500 peers."""
    worker = await daemon(OPENAI_API_KEY=PLACEHOLDER_KEY)
    await eventually(lambda: sandbox.stats.polls >= 1)
    sent = [
        b"",
        b"GET /health HTTP/1.1\r\nX-Slow: ",
        b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nhalf",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"y" * 1_000_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    peers: list[asyncio.StreamWriter] = []
    rng = random.Random(500)
    try:
        for number in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            peers.append(writer)
            writer.write(sent[number % len(sent)])
        for _ in range(20):
            for writer in rng.sample(peers, 50):
                writer.write(b"z")
            began = time.monotonic()
            assert (await worker.get("/health")).status_code == 200
            assert time.monotonic() - began < 4.0, "the peers block the port"
        assert worker.memory_kb("VmHWM") - worker.memory_kb("VmRSS") < 64 * 1024
    finally:
        for writer in peers:
            writer.transport.abort()
        await asyncio.sleep(0)
    await sandbox.tasks.settled([sandbox.tasks.add(text="after the flood")], timeout=40)
