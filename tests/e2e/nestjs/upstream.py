"""The two servers that Node.js runs for the tests: installed, built, started, held, killed."""

import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import httpx2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PROJECT: Final = Path(__file__).parent
AUDIENCE: Final = "https://tasks.test"
TOKEN_LIFE_S: Final = 5
#: the characters that RFC 6749 §2.3.1 has encoded before they go into the header
CLIENT_ID, CLIENT_SECRET = "daemon:1", "s:c/r%t +1&="
KEY_CLIENT_ID: Final = "daemon-with-a-key"
#: results of 1,536 floats are smaller, those of 3,072 are larger
BODY_LIMIT: Final = 25_000


def missing() -> str | None:
    """What this machine lacks to run the servers; None when nothing."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    wanted = json.loads((PROJECT / "package.json").read_text())["engines"]["node"]
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return None if _version(found) >= _version(wanted) else f"Node.js is {found}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.lstrip(">=v").split(".")[:2])


def prepare() -> None:
    """Install and build what has changed since the last time; the workers of a test run wait for one of them."""
    lock = PROJECT / "package-lock.json"
    with lock.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        installed = _digest([PROJECT / "package.json", lock])
        _once(PROJECT / "node_modules", installed, ["npm", "ci"])
        sources = sorted(path for folder in ("src", "testing") for path in (PROJECT / folder).glob("*.ts"))
        _once(PROJECT / "dist", installed + _digest([PROJECT / "tsconfig.json", *sources]), ["npm", "run", "build"])


def _once(made: Path, wanted: str, command: list[str]) -> None:
    stamp = made / ".made-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(made, ignore_errors=True)
    done = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    stamp.write_text(wanted)


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(part for file in files for part in (bytes(file), file.read_bytes()))).hexdigest()


def free_port() -> int:
    """Below the ports that the system hands out to clients: nobody takes it while its server is away.

    A client that calls there meanwhile cannot meet itself either. Every worker of a test run has a range of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + 500 * (worker % 20)
    for port in random.SystemRandom().sample(range(first, first + 500), 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


class NodeServer:
    """One program on one port. It ends with the tests: its standard input does."""

    def __init__(self, program: str, log: Path, environment: Mapping[str, object]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program = program
        self._log = log
        self._environment = {name: str(value) for name, value in environment.items()} | {"PORT": str(self.port)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", self._program],
                cwd=PROJECT,
                env={"PATH": os.environ["PATH"], **self._environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        ends_at = time.monotonic() + 60
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < ends_at, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: no request under way gets an answer."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Upstream:
    """The task API and the OAuth2 server, and the back doors of both. ``key``: the public key of the second client."""

    def __init__(self, directory: Path, key: Mapping[str, object]) -> None:
        clients = [
            {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
            {"client_id": KEY_CLIENT_ID, "token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [key]}},
        ]
        self.oauth = NodeServer(
            "testing/oauth.mjs",
            directory / "oauth.log",
            {"AUDIENCE": AUDIENCE, "TOKEN_LIFE_S": TOKEN_LIFE_S, "CLIENTS": json.dumps(clients)},
        )
        self.api = NodeServer(
            "dist/testing/api.js",
            directory / "api.log",
            {
                "ISSUER": self.oauth.url,
                "JWKS_URL": f"{self.oauth.url}/.well-known/jwks.json",
                "AUDIENCE": AUDIENCE,
                "STORE_DIR": directory,
                "BODY_LIMIT": BODY_LIMIT,
            },
        )

    def settings(self) -> dict[str, str]:
        """What makes a daemon use both, as the client with a secret."""
        return {
            "API_BASE_URL": self.api.url,
            "OAUTH2_TOKEN_URL": f"{self.oauth.url}/oauth2/token",
            "OAUTH2_CLIENT_ID": CLIENT_ID,
            "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
            "OAUTH2_AUDIENCE": AUDIENCE,
            "POLLING_INTERVAL_SECONDS": "0.5",
        }

    async def add(self, *tasks: Mapping[str, object]) -> list[str]:
        """Their ids. Each of them writes its result into the target of its own number, unless it says otherwise."""
        wanted = [
            {
                "type": "text_embedding",
                "callbackRoute": "verification_update_embedding",
                "callbackParams": {"targetId": target_id(number), "field": "embedding"},
                **task,
            }
            for number, task in enumerate(tasks)
        ]
        ids: list[str] = []
        for first in range(0, len(wanted), 50):  # the body limit is everybody's
            ids += await self._ask("POST", "tasks", wanted[first : first + 50])
        return ids

    async def look(self) -> dict[str, Any]:
        """``states`` by id; ``held``: ids of tasks whose PATCH is held; ``keys`` of the tokens that were accepted, in
        the order in which they appeared; ``refusedTokens``: requests that were answered with 401.
        """
        seen: dict[str, Any] = await self._ask("GET")
        return seen

    async def targets(self) -> dict[str, dict[str, Any]]:
        """What callbacks have written, by id; ``updates`` says how often one has run."""
        return {target["_id"]: target for target in await self._ask("GET", "targets")}

    async def hold(self, when: Literal["arrival", "answer"], *ids: str) -> None:
        """Hold the PATCH of each, before the token is checked or when all but the answer is done."""
        for task_id in ids:
            await self._ask("POST", f"holds/{task_id}/{when}")

    async def release(self, *ids: str) -> None:
        for task_id in ids:
            await self._ask("DELETE", f"holds/{task_id}")

    async def set_state(self, task_id: str, state: str) -> None:
        await self._ask("PATCH", f"tasks/{task_id}", {"state": state})

    async def delete(self, task_id: str) -> None:
        await self._ask("DELETE", f"tasks/{task_id}")

    async def set_environment(self, **variables: str) -> None:
        await self._ask("POST", "environment", variables)

    async def reset(self) -> None:
        await self._ask("DELETE")

    async def rotate_keys(self) -> str:
        """The id of the key that signs from now on; the old one is no longer published."""
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            kid: str = (await client.post(f"{self.oauth.url}/testing/rotate", timeout=10)).json()["kid"]
        return kid

    async def _ask(self, method: str, path: str = "", body: object = None) -> Any:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            answer = await client.request(method, f"{self.api.url}/testing/{path}", json=body, timeout=10)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


def target_id(number: int) -> str:
    return f"{number:024x}"


def new_key(file: Path) -> Path:
    """A private key of a client, as PEM."""
    key = rsa.generate_private_key(65537, 2048)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file
