"""The real command against a real NestJS API and a real OAuth2 server. They need Node.js.

Without it the tests are skipped. Every worker of a test run starts servers of its own, on ports of its own, out of
one installation.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey

from tests.e2e.nestjs.upstream import Upstream, missing, new_key, prepare


@pytest.fixture(scope="session")
def private_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private key of the client that has no secret, as a PEM file."""
    return new_key(tmp_path_factory.mktemp("key") / "key.pem")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, private_key: Path) -> Iterator[Upstream]:
    if lacking := missing():
        pytest.skip(f"needs Node.js of at least 20.19 with npm: {lacking}")
    prepare()
    key = RSAKey.import_key(private_key.read_bytes()).as_dict(private=False)
    both = Upstream(tmp_path_factory.mktemp("nestjs"), dict(key))
    try:
        both.oauth.start()
        both.api.start()
        yield both
    finally:
        both.api.kill()
        both.oauth.kill()


@pytest.fixture
async def upstream(servers: Upstream) -> Upstream:
    """Both servers, with no task and nothing held."""
    await servers.reset()
    return servers
