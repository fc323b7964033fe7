"""``healthcheck`` reads host and port where the daemon reads them, and says in one sentence what is wrong."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ai_task_processor.cli import healthcheck


class Health(BaseHTTPRequestHandler):
    """``server_version`` and ``status`` are set by a test."""

    status = 200
    sys_version = ""

    def version_string(self) -> str:
        return self.server_version

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"stalled")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(Health, "server_version", "ai-task-processor")
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("METRICS_HOST", "METRICS_PORT", "TASK_SOURCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("place", ["environment", ".env", "profile"])
def test_the_port_comes_from_where_the_daemon_reads_it(
    place: str, answering: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the environment sets wins over ``.env``, and both over the profile."""
    profile_port, env_port = (answering, None) if place == "profile" else (1, answering if place == ".env" else 1)
    Path("shop.toml").write_text(f'[settings]\nMETRICS_PORT = "{profile_port}"\n')
    Path(".env").write_text(f"TASK_SOURCE=./shop.toml\n{f'METRICS_PORT={env_port}' if env_port else ''}\n")
    if place == "environment":
        monkeypatch.setenv("METRICS_PORT", str(answering))
    assert healthcheck.main() == 0
    assert capsys.readouterr().out == "ok\n"


@pytest.mark.parametrize(
    ("port", "server", "status", "said"),
    [
        ("0", "", 200, "METRICS_PORT is 0"),
        ("many", "", 200, "METRICS_PORT must be a whole number"),
        ("1", "", 200, "no answer from 127.0.0.1:1"),
        ("", "nginx", 200, "something else than the daemon answers"),
        ("", "ai-task-processor", 503, "stalled"),
    ],
)
def test_it_fails_with_a_sentence(
    port: str,
    server: str,
    status: int,
    said: str,
    answering: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Health, "server_version", server)
    monkeypatch.setattr(Health, "status", status)
    monkeypatch.setenv("METRICS_PORT", port or str(answering))
    assert healthcheck.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("ai-task-processor: ")
    assert said in told
    assert told.count("\n") == 1
