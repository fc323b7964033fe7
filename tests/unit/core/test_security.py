"""What no input, no setting and no variable of the environment may change about the daemon's safety.

The masking of single lines is tested in test_logs.py, paths in the contract of the task source, and
the metrics' closed label sets in test_metrics.py; here is what belongs to no module alone.
"""

import ast
import os
import random
import ssl
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest

import ai_task_processor
from ai_task_processor.core.errors import Rejected
from ai_task_processor.core.plugins import built_in_groups, load_selected
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.core.variables import variables
from ai_task_processor.engine.wiring import Parts, assemble
from ai_task_processor.net import services
from ai_task_processor.net.client import HttpClient, make_client
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.ops.endpoints import Action, Answered, MetricsServer
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.sources.rest.task_requests import task_url
from tests.nest import TASK

PACKAGE = Path(str(ai_task_processor.__file__)).parent
GROUPS = built_in_groups()
SETTINGS = {
    "API_BASE_URL": "https://api.test",
    "ORY_PROJECT_SLUG": "slug",
    "OAUTH2_CLIENT_ID": "client",
    "OAUTH2_CLIENT_SECRET": "secret",
    "OPENAI_API_KEY": "sk-of-a-test",
}
#: what HTTP and TLS libraries like to read, each of them an open door
TEMPTATIONS = {
    **dict.fromkeys(
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"], "http://127.0.0.1:1"
    ),
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": "/nowhere",
    "REQUESTS_CA_BUNDLE": os.devnull,
    "CURL_CA_BUNDLE": os.devnull,
    "PYTHONHTTPSVERIFY": "0",
    "OPENAI_BASE_URL": "https://elsewhere.test",
    "OPENAI_ORG_ID": "elsewhere",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer elsewhere",
}


@pytest.fixture
def tempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with proxies, a ``.netrc`` for every host, and a variable that makes TLS keys be logged."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    for name, value in {**TEMPTATIONS, "NETRC": str(netrc), "SSLKEYLOGFILE": str(tmp_path / "keys")}.items():
        monkeypatch.setenv(name, value)
    shared_tls.cache_clear()
    yield
    shared_tls.cache_clear()
    assert not (tmp_path / "keys").exists()


def clients_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: str) -> tuple[Parts, list[HttpClient]]:
    """The daemon at rest, and its HTTP clients."""
    clients: list[HttpClient] = []

    def noted(network: NetworkSettings, **options: Any) -> HttpClient:
        clients.append(make_client(network, **options))
        return clients[-1]

    monkeypatch.setattr(services, "make_client", noted)
    factory = ProcessorFactory()
    environ = {**SETTINGS, "DATA_DIR": str(tmp_path), **more}
    settings, selected = load_selected(environ, None, groups=factory.settings_groups)
    return assemble(settings, selected, factory), clients


async def test_no_variable_of_the_environment_reaches_a_client(
    tempted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client of the daemon goes to no proxy, adds no credentials, keeps no cookie and verifies TLS 1.2."""
    _, clients = clients_of(tmp_path, monkeypatch)
    assert len(clients) == 4
    for client in clients:
        pool = client.pool
        assert pool.tls is not None
        context = pool.tls.context
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert not getattr(context, "keylog_filename")  # noqa: B009  # typed as a str that is never None
        assert pool._proxy is None
        session = pool._open()
        assert (session.trust_env, session.auth, session.auto_decompress) == (False, None, False)
        assert type(session.cookie_jar) is aiohttp.DummyCookieJar
        assert {name.lower() for name in session.headers} == {"user-agent", "accept", "accept-encoding"}
        await client.aclose()


@pytest.mark.parametrize("value", ["true", "false"])
def test_no_setting_turns_verification_off(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLOW_INSECURE_HTTP is about the scheme alone, and it is the only variable with such a name."""
    words = {"INSECURE", "VERIFY", "SSL", "TLS", "TRUST"}
    suspicious = [v.name for v in variables(GROUPS) if words & set(v.name.split("_"))]
    assert suspicious == ["ALLOW_INSECURE_HTTP"]
    _, clients = clients_of(tmp_path, monkeypatch, ALLOW_INSECURE_HTTP=value)
    for client in clients:
        assert client.pool.tls is not None
        assert client.pool.tls.context.verify_mode == ssl.CERT_REQUIRED


def _suspects(tree: ast.AST) -> Iterator[str]:
    """Clients that are made with the environment's advice, and every word that turns verification off."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from {node.attr} & {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context"}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            yield from {node.targets[0].attr} & {"verify_mode", "check_hostname"}
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        name = ast.unparse(node.func).rpartition(".")[2]
        makes_client = name in {"AsyncClient", "Client", "AsyncHTTPTransport", "create_ssl_context"}
        if makes_client and given.get("trust_env") != "False":
            yield f"{name} trusts the environment"
        if given.get("verify") == "False" or given.get("follow_redirects") == "True":
            yield f"{name} is careless"


def test_no_client_is_made_carelessly() -> None:
    """In the whole package no client trusts the environment, follows redirects or leaves TLS unverified."""
    found = {path.name: list(_suspects(ast.parse(path.read_text()))) for path in PACKAGE.rglob("*.py")}
    assert not {name: what for name, what in found.items() if what}


CARELESS = ["httpx2.AsyncClient()", "httpx2.Client(trust_env=True)", "get(url, verify=False)"]


@pytest.mark.parametrize("source", [*CARELESS, "c.verify_mode = ssl.CERT_NONE"])
def test_a_careless_client_is_noticed(source: str) -> None:
    assert list(_suspects(ast.parse(source)))


def test_the_ops_server_answers_nine_requests() -> None:
    """GET and HEAD of four paths, POST of one; of 20,000 others none is answered with more than a refusal."""
    token, calls = "a-token-of-the-tests", []

    def called(_query: object) -> Answered:
        calls.append(1)
        return 202, {}

    ops = MetricsServer(
        unhealthy=lambda: None,
        unready=list,
        status=dict,
        exposition=lambda _: (b"", "text/plain"),
        actions={"/wake": Action(lambda: token, called)},
    )
    paths = ["/health", "/ready", "/metrics", "/status"]
    rng = random.Random(8001)

    def status(method: str, path: str) -> int:
        return ops.answer(method, path, f"Bearer {token}").status

    def twisted(path: str) -> str:
        position = rng.randrange(len(path) + 1)
        junk = rng.choice(["/", "//", "..", "%2e", "%2F", ";", "\\", "\x00", ".", "é", "A", " "])
        return path[:position] + junk + path[position:] if rng.random() < 0.9 else path.upper()

    for path in paths:
        for method in ("GET", "HEAD"):
            assert status(method, path) == 200
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "Head", "", "GET "):
            assert status(method, path) == 405
    assert status("POST", "/wake") == 202
    for _ in range(20_000):
        path = twisted(rng.choice([*paths, "/wake"]))
        assert status(rng.choice(["GET", "HEAD", "POST"]), path) == 404
    assert len(calls) == 1


def test_a_thousand_ids_that_the_pattern_lets_in_stay_below_the_prefix() -> None:
    """Whatever TASK_ID_PATTERN allows, even everything: exactly prefix and id, or nothing at all is asked for."""
    prefix = "https://api.test/api/ai-tasks/"
    rng = random.Random(1000)
    alphabet = string.ascii_letters + string.digits + "._~-" + "/\\?#%@:;&=+ \t\r\n\x00\"'<>[]{}|^`é€😀"
    refused = 0
    for _ in range(1000):
        start = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        task_id = start + rng.choice(["", "/..", "../", "%2e%2e", "?x=1"])
        try:
            url = task_url("https://api.test", TASK, task_id)
        except Rejected:
            refused += 1
            continue
        assert url.startswith(prefix)
        assert not set(url.removeprefix(prefix)) & set("/\\?#@ ")
        assert httpx2.URL(url).path == f"/api/ai-tasks/{task_id}"
    assert refused < 100


def test_what_is_secret_says_so() -> None:
    """Every variable whose name sounds like a secret is one: masked, and readable from a file."""
    words: Mapping[str, bool] = {v.name: v.secret or v.name.endswith("_FILE") for v in variables(GROUPS)}
    sounding = {name for name in words if {"SECRET", "KEY", "TOKEN", "PASSWORD"} & set(name.split("_"))}
    assert {name for name in sounding if not words[name]} == {"OAUTH2_TOKEN_URL", "S3_ACCESS_KEY_ID"}


async def test_no_authorities_are_read_for_plain_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a remote in plain http has no TLS at all: it could not be asked for https by mistake."""
    local = {"API_BASE_URL": "http://127.0.0.1:1", "OAUTH2_TOKEN_URL": "https://ory.test/token"}
    _, clients = clients_of(tmp_path, monkeypatch, **local)
    assert {client._origin: client.pool.tls is not None for client in clients} == {
        "http://127.0.0.1:1": False,
        "https://ory.test": True,
        "https://api.openai.com": True,
    }
