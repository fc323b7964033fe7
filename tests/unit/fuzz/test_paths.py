"""Ids and settings, fuzzed: what stands in them decides no path, no exception and no word of a message."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import ConfigurationError, Rejected
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.reading import load_settings
from ai_task_processor.core.settings import Settings
from ai_task_processor.core.variables import variables
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.sources.rest.task_requests import task_url
from tests.nest import TASK

BASES = st.sampled_from(["https://api.test", "http://127.0.0.1:3000", "https://API.test:443", "https://[::1]:8443"])
PREFIXES = st.text("abAB01-._~/%!$&'()*+,;=:@é", max_size=12)
IDS = (
    st.text(st.characters(codec=None), max_size=20)
    | st.text("./%?#2eE\\@:;a", max_size=9)
    | st.sampled_from(["../../admin", "a?x=1", "%2e%2e", "..", ".", "", "//evil.test", "\\\\evil.test", "a\r\nX: y"])
    | st.from_regex("[A-Za-z0-9][A-Za-z0-9._~-]{0,127}", fullmatch=True)
)


@given(BASES, PREFIXES, IDS)
def test_a_result_goes_to_its_own_task(base: str, prefix: str, task_id: str) -> None:
    """Below any base URL that the settings accept: host, prefix and exactly the id, or nothing is sent."""
    try:
        settings = ApiSettings(API_BASE_URL=f"{base}/{prefix}".rstrip("/"))  # type: ignore[call-arg]  # the variable's name
    except ValueError:
        return
    try:
        address = task_url(str(httpx2.URL(settings.base_url + "/")).rstrip("/"), TASK, task_id)
    except Rejected:
        assert not ApiSettings(API_BASE_URL=base).task_id_pattern.fullmatch(task_id)  # type: ignore[call-arg]  # as above
        return
    sent, plain = httpx2.URL(address), httpx2.URL(settings.base_url + TASK.removesuffix("{id}"))
    assert (sent.scheme, sent.host, sent.port) == (plain.scheme, plain.host, plain.port)
    assert sent.host == urlsplit(base).hostname
    assert sent.raw_path.startswith(plain.raw_path)
    segment = sent.raw_path.removeprefix(plain.raw_path)
    assert segment not in (b"", b".", b"..")
    assert not set(segment) & set(b"/?#\\ \r\n")
    assert unquote_to_bytes(segment) == task_id.encode("utf-8", "surrogatepass")
    assert not sent.query
    assert not sent.fragment


GROUPS = built_in_groups()
NAMES = [variable.name for variable in variables(GROUPS)]
#: nothing that a user can write by accident, and free of quotes and hashes, which .env gives a meaning
SECRET = "Zq7-a-secret-text"
REQUIRED = {
    "API_BASE_URL": "https://api.test",
    "ORY_PROJECT_SLUG": "s",
    "OAUTH2_CLIENT_ID": "i",
    "OAUTH2_CLIENT_SECRET": "s",
    "DATABASE_URL": "postgresql://localhost/tasks",
    "REDIS_URL": "redis://localhost",
    "S3_ENDPOINT_URL": "https://s3.example.com",
    "S3_ACCESS_KEY_ID": "key",
    "S3_SECRET_ACCESS_KEY": "secret",
}
LINES = st.tuples(
    st.sampled_from([*NAMES, *(f"{name}_FILE" for name in NAMES), "export OPENAI_API_KEY", "# A", ""]),
    st.sampled_from(["=", " = ", ":", ""]),
    st.text(max_size=10) | st.sampled_from(["'", '"', "${HOME}", "\\", "\x00"]),
).map(lambda parts: f"{parts[0]}{parts[1]}{SECRET}{parts[2]}".encode("utf-8", "replace"))


@pytest.fixture(scope="module")
def dotenv() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / ".env"


def loaded(environ: dict[str, str], path: Path) -> Settings | tuple[str, ...]:
    try:
        return load_settings(environ, path, groups=GROUPS)
    except ConfigurationError as error:
        return error.problems


@given(content=st.lists(LINES | st.binary(max_size=20), max_size=6).map(b"\n".join))
def test_any_dotenv_is_settings_or_lines_about_it(dotenv: Path, content: bytes) -> None:
    """Whatever stands in ``.env``: settings, or one line for each mistake, with its place and none of its text."""
    dotenv.write_bytes(content)
    told = loaded(REQUIRED, dotenv)
    for line in () if isinstance(told, Settings) else told:
        assert SECRET not in line
        assert line.isprintable()


@given(st.sampled_from(["API_BASE_URL", "OPENAI_BASE_URL", "OAUTH2_TOKEN_URL", "HTTPS_PROXY"]), st.data())
def test_an_accepted_address_can_be_asked(name: str, data: st.DataObject) -> None:
    """What the settings take for a URL, the HTTP client takes too, and reads the same host in it."""
    host = data.draw(
        st.text("abA0.-_:@%~1", min_size=1, max_size=12) | st.sampled_from(["[::1]", "[::1%25lo]", "[::g]"])
    )
    rest = data.draw(
        st.sampled_from(["", "/", "/a b", "/a", "/é", "/a/../b", "/%zz", ":0", ":99999", ":8443", "\\x", "/\x7f"])
    )
    text = f"https://{host}{rest}"
    told: Any = loaded({**REQUIRED, name: text}, Path("/nowhere/.env"))
    if not isinstance(told, Settings):
        assert {line.split()[0] for line in told} == {name}  # two mistakes in it are two lines
        assert not [line for line in told if "@" in text and text in line]
        return
    url = httpx2.URL(text)
    assert url.host
    assert url.scheme == "https"


@pytest.mark.parametrize(
    "host", ["api..example.com", ".example.com", "-api.example.com", "~", "-\xe9", "a b", "a" * 64]
)
def test_a_slip_in_a_host_is_told_at_the_start(host: str) -> None:
    """What no resolver can be asked for is one line about its variable, not an outage at three in the morning."""
    told: Any = loaded({**REQUIRED, "API_BASE_URL": f"https://{host}/api"}, Path("/nowhere/.env"))
    assert [line.split(" must be ")[0] for line in told] == ["API_BASE_URL"]


@pytest.mark.parametrize(
    "host", ["my_api:3000", "b\xfccher.example", "[::1]:3000", "api.example.com.", "10.0.0.1", "a--b"]
)
def test_every_usual_host_is_accepted(host: str) -> None:
    """Compose services, umlauts, addresses, a final dot."""
    assert isinstance(loaded({**REQUIRED, "API_BASE_URL": f"https://{host}/api"}, Path("/nowhere/.env")), Settings)
