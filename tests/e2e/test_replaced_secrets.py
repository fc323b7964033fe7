"""Secret files that are rewritten while the daemon runs: used after a refusal, or at once after SIGHUP."""

import asyncio
import base64
import signal
from dataclasses import replace
from pathlib import Path

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import Start, eventually
from tests.e2e.test_acknowledgements import QUICK

SECOND, THIRD = "second-client-secret", "third-client-secret"


def replace_secret(sandbox: Sandbox, secret: str) -> None:
    """The server takes another secret from now on, and none of its tokens is good any more."""
    sandbox.tokens.credentials = replace(sandbox.tokens.credentials, client_secret=secret)
    sandbox.tokens.revoke()


async def test_a_replaced_secret_is_used_without_a_restart(
    sandbox: Sandbox, daemon: Start, free_port: int, tmp_path: Path
) -> None:
    """File first, then server: no task waits. Server first: refused, doctor says why, and SIGHUP mends it at once."""
    file = tmp_path / "client-secret"
    file.write_text(sandbox.tokens.credentials.client_secret)
    given = {"OAUTH2_CLIENT_SECRET": "", "OAUTH2_CLIENT_SECRET_FILE": file, "METRICS_PORT": free_port}
    worker = await daemon(**QUICK, **given)
    await sandbox.tasks.settled([sandbox.tasks.add("before")], timeout=20)

    file.write_text(f"{SECOND}\n")
    replace_secret(sandbox, SECOND)
    await sandbox.tasks.settled([sandbox.tasks.add("after")], timeout=20)
    assert [event["variable"] for event in worker.events("secret.replaced")] == ["OAUTH2_CLIENT_SECRET"]

    replace_secret(sandbox, THIRD)
    await eventually(lambda: worker.unready_for("invalid_client"))
    file.write_text(THIRD)
    doctor = await worker.command("doctor")
    assert doctor.code == 78
    assert "it uses an older secret than this command" in doctor.out
    assert "SIGHUP" in doctor.out
    worker.send(signal.SIGHUP)
    await eventually(lambda: len(worker.events("secret.replaced")) == 2, timeout=3)
    await sandbox.tasks.settled([sandbox.tasks.add("at once")], timeout=8)
    assert len(worker.events("daemon.hung_up")) == 1
    assert (await worker.get("/ready")).status_code == 200
    doctor = await worker.command("doctor")
    assert (doctor.code, doctor.out.splitlines()[-1]) == (0, "Ready, with 1 warning: a daemon is running")

    log = worker.log.read_text()
    for secret in ("sandbox-secret", SECOND, THIRD):
        assert secret not in log
        assert base64.b64encode(f"sandbox-client:{secret}".encode()).decode() not in log


async def test_hang_ups_never_end_the_daemon(sandbox: Sandbox, daemon: Start) -> None:
    """From the first moment on, a storm of them while it works and while it drains: nothing is lost, exit code 0."""
    ids = [sandbox.tasks.add(f"text {number}") for number in range(50)]
    worker = await daemon(**QUICK)
    for _ in range(30):
        worker.send(signal.SIGHUP)
        await asyncio.sleep(0.01)
    await sandbox.tasks.settled(ids, timeout=20)
    await eventually(lambda: worker.events("daemon.hung_up"))
    worker.send(signal.SIGTERM)
    for _ in range(5):
        worker.send(signal.SIGHUP)
    assert await worker.exit_code() == 0
    assert {sandbox.tasks[task_id].callbacks for task_id in ids} == {1}
