"""DATABASE_URL and the ids of owners."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net import leases
from ai_task_processor.net.leases import LeaseSettings
from ai_task_processor.net.postgres_settings import DatabaseSettings


def database(url: str) -> DatabaseSettings:
    return load_group(DatabaseSettings, {"DATABASE_URL": url}, None)


@pytest.mark.parametrize(
    ("url", "understood", "place"),
    [
        ("postgresql://u:p%40@db/x", "postgresql://u:p%40@db/x", "postgresql://db:5432"),
        ("postgres://u@[::1]:6000/x", "postgresql://u@[::1]:6000/x", "postgresql://[::1]:6000"),
        ("postgresql+psycopg2://db:1/x?sslmode=require", "postgresql://db:1/x?sslmode=require", "postgresql://db:1"),
        (
            "postgresql+asyncpg://u@a:1,b:2/x?ssl=verify-full&prepared_statement_cache_size=0",
            "postgresql://u@a:1,b:2/x?sslmode=verify-full",
            "postgresql://a:1",
        ),
        ("postgresql:///x?host=/run/pg&user=a b", "postgresql:///x?host=/run/pg&user=a%20b", None),
        ("postgresql:///x?host=db&port=7", "postgresql:///x?host=db&port=7", "postgresql://db:7"),
    ],
)
def test_forms_of_a_url(url: str, understood: str, place: str | None) -> None:
    """What SQLAlchemy calls its drivers is understood; the place has no credentials."""
    settings = database(url)
    assert (settings.url.get_secret_value(), settings.place) == (understood, place)


@pytest.mark.parametrize("url", ["mysql://u:Zq7@db/x", "Zq7", "postgresql://", "postgresql://u:Zq7@db:port/x"])
def test_what_is_no_url_is_told_without_its_value(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        database(url)
    (problem,) = caught.value.problems
    assert problem.startswith("DATABASE_URL must be a URL like postgresql://user:password@db.example.com:5432/name")
    assert "Zq7" not in problem


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import certifi

    return Path(certifi.where())


VERIFIED: Mapping[str, str] = {"sslmode": "verify-full", "sslrootcert": "BUNDLE"}


@pytest.mark.parametrize(
    ("url", "with_bundle", "expected", "warned"),
    [
        ("postgresql://localhost/x", True, {"sslmode": "prefer"}, False),
        ("postgresql:///x?host=/run/pg", False, {"sslmode": "prefer"}, False),
        ("postgresql://db/x", False, {"sslmode": "prefer"}, True),
        ("postgresql://db/x", True, VERIFIED, False),
        ("postgresql://db.example.com/x", True, VERIFIED, False),
        ("postgresql://db.example.com/x", False, {"sslmode": "verify-full", "sslrootcert": "system"}, False),
        ("postgresql://db.example.com/x?sslmode=require", True, {}, True),
        ("postgresql://db/x?sslmode=verify-ca&sslrootcert=mine", True, {}, False),
    ],
)
def test_when_the_server_is_verified(
    url: str, with_bundle: bool, expected: Mapping[str, str], warned: bool, bundle: Path
) -> None:
    """Always on public hosts, on private ones with CA_BUNDLE; what the URL says itself comes first."""
    network = NetworkSettings(**({"CA_BUNDLE": bundle} if with_bundle else {}))  # type: ignore[arg-type]
    settings = database(url)
    assert settings.tls(network) == {key: text.replace("BUNDLE", str(bundle)) for key, text in expected.items()}
    assert bool(settings.unverified(network)) is warned


def test_an_owner_id_has_room_for_everything() -> None:
    """The longest one is as long as announced; its parts can be read again."""
    incarnation = leases.new_incarnation("i" * 100)
    owner = f"{leases.new_nonce(incarnation)}123456789"
    assert re.fullmatch(r"atp:i{100}:[0-9a-f]{16}:[0-9a-f]{16}:123456789", owner)
    assert len(owner) <= leases.MAX_OWNER
    assert (leases.incarnation_of(owner), leases.attempt_of(owner)) == (incarnation, 123456789)
    assert leases.attempt_of("atp:x:y:z") == 1


@pytest.mark.parametrize(("given", "id_"), [({}, "a-host"), ({"INSTANCE_ID": "worker-1"}, "worker-1")])
def test_the_name_of_an_instance(given: Mapping[str, str], id_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a:host")
    assert load_group(LeaseSettings, given, None).instance_id == id_


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"INSTANCE_ID": "a:b"}, "INSTANCE_ID must have at most 100 letters, digits, dots, hyphens and underscores"),
        ({"INSTANCE_ID": "i" * 101}, "INSTANCE_ID must have at most 100"),
        ({"LEASE_TTL": "1.9"}, "LEASE_TTL must be a number from 2 to 86400"),
    ],
)
def test_a_wrong_name_or_lease(given: Mapping[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_group(LeaseSettings, given, None)
    assert caught.value.problems[0].startswith(problem)
