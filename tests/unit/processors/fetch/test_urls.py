"""Addresses of pages: what is checked is what is requested."""

from ipaddress import ip_address

import pytest

from ai_task_processor.processors.fetch.urls import canonical, host_of, page_url

#: Python 3.13 writes it as ::ffff:127.0.0.1
MAPPED = ip_address("::ffff:7f00:1")


@pytest.mark.parametrize(
    ("text", "url", "usual"),
    [
        ("http://Example.COM:80/a b/?q=ü#f", "http://example.com/a%20b/?q=%C3%BC", "http://example.com/a%20b?q=%C3%BC"),
        ("HTTPS://example.com:443", "https://example.com/", "https://example.com"),
        ("http://example.com:443/", "http://example.com:443/", "http://example.com:443"),
        ("http://example.com./a/b/", "http://example.com/a/b/", "http://example.com/a/b"),
        ("http://example.com/?b=&a=1&a=0#x", "http://example.com/?b=&a=1&a=0", "http://example.com?a=0&a=1&b="),
        ("http://bücher.example/%2e%2E", "http://xn--bcher-kva.example/%2e%2E", "http://xn--bcher-kva.example/%2e%2E"),
        ("http://2130706433/", "http://127.0.0.1/", "http://127.0.0.1"),
        ("http://0x7f.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://017700000001", "http://127.0.0.1/", "http://127.0.0.1"),
        ("http://[::FFFF:7f00:1]:80/", f"http://[{MAPPED}]/", f"http://[{MAPPED}]"),
    ],
)
def test_urls(text: str, url: str, usual: str) -> None:
    """One spelling for each: of the request, and for comparison."""
    assert page_url(text) == url == page_url(url)
    assert canonical(url) == usual


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "//x", "/x", "x", "ftp://x/", "file:///etc/passwd", "gopher://x/", "javascript:alert(1)", "http://",
        "http:///x", "http://a b/", "https://user:p@example.com/", "https://user@example.com/", "http://x:0/",
        "http://x:65536/", "http://a\\@127.0.0.1/", "http://a.example\\.b/", "http://127.0.0.1%2f@x/", "http://x..y/",
        "http://1.2.3.4.5/", "http://999.1.1.1/", "http://\uff11\uff12\uff17.0.0.1/", "http://[fe80::1%25eth0]/", "http://[::1/",
        "http://x/\n", "http://x/\0", "http://x/\ud800", f"http://{'a' * 300}.example/", f"http://x/{'a' * 5000}",
    ],
)  # fmt: skip
def test_no_urls(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        page_url(text)
    assert host_of(text) is None
