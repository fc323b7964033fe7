"""A real Prometheus on loopback, with the configuration that is shipped: only addresses, paths and the pace differ."""

import asyncio
import json
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.bench.machine import free_port
from tests.ops.monitoring import MONITORING

DAEMON = "ai-task-processor"
SCRAPE_S = 1
#: what Grafana would put in for its variables: ranges that fit a run of a minute
VARIABLES = {"$__rate_interval": "10s", "$__range": "2m", "$instance": ".*", "$price": "0.02"}


def executable(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: tests/ops/run fetches it"
    return found


def filled(query: str) -> str:
    """A panel's query as Grafana would send it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def configuration(targets: Mapping[str, int]) -> dict[str, Any]:
    """The shipped configuration, made to scrape these ports of this machine, by job, each second."""
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    pace = f"{SCRAPE_S}s"
    config["global"] |= {"scrape_interval": pace, "scrape_timeout": pace, "evaluation_interval": pace}
    config["rule_files"] = [str(MONITORING / Path(file).name) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    return config


class Prometheus:
    """One Prometheus that scrapes the daemon on ``daemon_port``; its data live and die with ``directory``."""

    def __init__(self, directory: Path, daemon_port: int) -> None:
        self._directory = directory
        self._port = free_port()
        self._targets = {DAEMON: daemon_port, "prometheus": self._port}
        self._process: asyncio.subprocess.Process | None = None
        self._client = httpx2.AsyncClient(trust_env=False, verify=False, base_url=f"http://127.0.0.1:{self._port}")

    async def __aenter__(self) -> "Prometheus":
        config, log = self._directory / "prometheus.yml", self._directory / "prometheus.log"
        config.write_text(yaml.safe_dump(configuration(self._targets)))
        with log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                executable("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(60):
            while not await self._ready():
                assert self._process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    async def _ready(self) -> bool:
        try:
            return (await self._client.get("/-/ready")).status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    async def _data(self, path: str, **parameters: str) -> Any:
        answer = await self._client.get(f"/api/v1/{path}", params=parameters, timeout=30)
        document = json.loads(answer.text)
        assert document["status"] == "success", (parameters, document)
        return document["data"]

    async def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._data("targets"))["activeTargets"]
        return found

    async def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (await self._data("rules"))["groups"] for rule in group["rules"]]

    async def metrics(self) -> set[str]:
        """The names of all that has arrived."""
        return set(await self._data("label/__name__/values"))

    async def positive(self, query: str) -> bool:
        """Is what a query of one series finds more than 0 now?"""
        found = (await self._data("query", query=query))["result"]
        return bool(found) and float(found[0]["value"][1]) > 0

    async def course(self, query: str, began: float, ended: float) -> list[dict[str, Any]]:
        """The series of a query between two times in seconds since the epoch: labels, and points that are numbers."""
        times = {"start": str(began), "end": str(ended), "step": f"{SCRAPE_S}"}
        series = []
        for one in (await self._data("query_range", query=query, **times))["result"]:
            points = [[at, float(value)] for at, value in one["values"] if not re.fullmatch("NaN|.Inf", value)]
            series += [{"labels": one["metric"], "points": points}] if points else []
        return series
