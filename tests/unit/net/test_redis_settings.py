"""``REDIS_URL``: what is understood, and what becomes of it."""

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.reading import load_settings
from ai_task_processor.net.redis_settings import RedisSettings


def load(url: str, **more: str) -> RedisSettings:
    return load_settings({"REDIS_URL": url, **more}, None, groups=[RedisSettings])[RedisSettings]


@pytest.mark.parametrize(
    ("url", "place", "warned"),
    [
        ("redis://localhost", "redis://localhost:6379", False),
        ("redis://:p%40ss@10.0.0.7:6380/3", "redis://10.0.0.7:6380", True),
        ("redis://cache", "redis://cache:6379", True),
        ("rediss://me:p%40ss@redis.example.com/0", "rediss://redis.example.com:6379", False),
        ("redis://[::1]:6379", "redis://[::1]:6379", False),
        ("unix:///run/redis.sock", None, False),
    ],
)
def test_a_url(url: str, place: str | None, warned: bool) -> None:
    """Its place has no credentials; unencrypted ones on a network are warned of; the password is a secret."""
    settings = load(url)
    assert (settings.place, bool(list(settings.warnings()))) == (place, warned)
    if "p%40ss" in url:
        assert {"p%40ss", "p@ss"} <= set(settings.secrets())
        assert settings.credentials in (("p@ss",), ("me", "p@ss"))
        assert "p%40ss" not in settings.address
    else:
        assert (settings.credentials, settings.address) == (None, url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://localhost:6379", "must be a URL like redis://"),
        ("localhost:6379", "must be a URL like redis://"),
        ("redis://localhost/first", "must be a URL like redis://"),
        ("redis://localhost:port", "must be a URL like redis://"),
        ("redis://localhost?db=1", "must be a URL like redis://"),
        ("redis://redis.example.com", "must use rediss"),
    ],
)
def test_what_is_no_url(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(url)
    (problem,) = raised.value.problems
    assert problem.startswith(f"REDIS_URL {text}")
    assert url not in problem


def test_a_public_host_may_be_permitted() -> None:
    assert list(load("redis://redis.example.com", ALLOW_INSECURE_HTTP="true").warnings())
