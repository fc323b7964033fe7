"""The TLS context of every client."""

import ssl

import httpx2
import pytest

from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import make_client
from ai_task_processor.net.tls import shared_tls, tls_context

NETWORK = NetworkSettings.model_validate({})


def test_tls_is_verified_and_modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.2 or later, names and chains checked, and SSL_CERT_FILE of the environment changes nothing."""
    authorities = tls_context(NETWORK).cert_store_stats()
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    context = tls_context(NETWORK)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats() == authorities


def test_clients_share_one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authorities are read once for all clients of a process."""
    made = []
    original = httpx2.create_ssl_context
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda **how: made.append(how) or original(**how))  # type: ignore[func-returns-value]  # append, then the context
    shared_tls.cache_clear()
    for _ in range(4):
        make_client(NETWORK, url="https://api.example.com", connections=1)
    assert made == [{"trust_env": False}]
