"""``doctor`` finds a METRICS_PORT that is taken, and the process that has it."""

import os
import socket
from pathlib import Path

from ai_task_processor.cli.doctor.port import occupied, owner_of
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import OpsSettings


def ops(**given: object) -> OpsSettings:
    return load_group(OpsSettings, {f"METRICS_{name.upper()}": str(text) for name, text in given.items()}, None)


async def test_a_taken_port_is_a_finding_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = await occupied(ops(port=port))
        assert finding is not None
        assert (finding.mark, finding.code) == ("failure", 78)
        assert f"127.0.0.1:{port} is taken" in finding.text
        assert f"(process {os.getpid()})" in finding.text
        assert finding.remedy == "stop it, or choose another METRICS_HOST or METRICS_PORT"
    assert await occupied(ops(port=port)) is None


async def test_an_address_of_others_is_a_finding() -> None:
    finding = await occupied(ops(host="192.0.2.1", port=8001))
    assert finding is not None
    assert "METRICS_HOST cannot be used" in finding.text
    assert finding.remedy == "choose another one"


def test_without_proc_nobody_is_named(tmp_path: Path) -> None:
    assert owner_of(8001, tmp_path) is None
