"""Run keys: those of the task runner, whatever the params look like."""

import pytest

from ai_task_processor.sources.task_runner.run_keys import canonical_url, run_key


@pytest.mark.parametrize(
    ("task_type", "params", "key"),
    [
        ("echo", {"msg": "héllo"}, "echo:20b0583e8fd35d74"),
        ("sleep", {"seconds": 1}, "sleep:fd839bdef3efc7f8"),
        ("search", {"query": "tide tables"}, "search:67201d1a8700f447"),
        (
            "search",
            {"query": " tide\n tables ", "sources": [" Brave", "brave"], "recency_days": None},
            "search:67201d1a",
        ),
        ("search", {"query": "tide tables", "sources": [], "x": 1}, "search:67201d1a8700f447"),
    ],
)
def test_the_keys_of_the_task_runner(task_type: str, params: object, key: str) -> None:
    assert run_key(task_type, params).startswith(key)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"url": "HTTP://A.example:80/x/#top"}, {"url": "http://a.example/x", "reader_mode": True}, True),
        ({"url": "http://a.example/x", "store_raw_html": True}, {"url": "http://a.example/x"}, True),
        ({"url": "http://a.example/x"}, {"url": "https://a.example/x"}, False),
        ({"url": "http://a.example/x"}, {"url": "http://a.example/x", "reader_mode": False}, False),
        ({"url": "no URL"}, {"url": "no other URL"}, False),
    ],
)
def test_equal_pages(one: object, other: object, equal: bool) -> None:
    assert (run_key("fetch_url", one) == run_key("fetch_url", other)) is equal


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://A.Example:443/Path/?b=2&a=1&empty=#x", "https://a.example/Path?a=1&b=2&empty="),
        ("http://a.example:8080/", "http://a.example:8080"),
        ("http://[::1]:80/x//", "http://[::1]/x"),
        (" https://a.example/%C3%BC?q=%20 ", "https://a.example/%C3%BC?q=+"),
    ],
)
def test_canonical_urls(url: str, canonical: str) -> None:
    assert canonical_url(url) == canonical


@pytest.mark.parametrize(
    "url", ["", "ftp://a.example/", "a.example", "http://", "http://a.example:99999/", "http://[x"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort|Invalid"):
        canonical_url(url)


@pytest.mark.parametrize("task_type", ["echo", "sleep", "search", "search_batch", "fetch_url", "import_mail"])
@pytest.mark.parametrize(
    "params",
    [{}, [], None, 5, "x", {"query": 5, "queries": 5, "url": 5, "sources": 5}, {"sources": [None], "queries": [{}]}],
)
def test_params_that_nobody_can_use_have_a_key_too(task_type: str, params: object) -> None:
    """Equal ones the same, and others another one."""
    assert run_key(task_type, params) == run_key(task_type, params)
    assert run_key(task_type, params) != run_key(task_type, {"other": [params]})
