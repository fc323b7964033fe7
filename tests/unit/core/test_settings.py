"""Settings: every mistake in one go, no value in any message, and the environment read in one place only."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError, model_validator

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Endpoint, Group, names, setting
from ai_task_processor.core.origins import shown
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.reading import load_group, load_settings
from ai_task_processor.core.settings import Settings
from ai_task_processor.core.variables import variables
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.providers.settings import PLACEHOLDER_KEY, ModelSettings
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.stores.sqlite.settings import StoreSettings
from tests.helpers import without_origin

REQUIRED = {
    "API_BASE_URL": "https://api.example.com",
    "ORY_PROJECT_SLUG": "quiet-hill",
    "OAUTH2_CLIENT_ID": "client",
    "OAUTH2_CLIENT_SECRET": "s3cret",
    "OPENAI_API_KEY": "sk-live",
    # of sources that are not the default
    "DATABASE_URL": "postgresql://localhost/tasks",
    "REDIS_URL": "redis://localhost",
    "S3_ENDPOINT_URL": "https://s3.example.com",
    "S3_ACCESS_KEY_ID": "key",
    "S3_SECRET_ACCESS_KEY": "s3cret of the key",
}
GROUPS = built_in_groups()
NAMES = [variable.name for variable in variables(GROUPS)]
#: asked for when another variable is set: what sinks need beside their address, for one
NEEDED = {"KAFKA_TOPIC", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD", "SMTP_FROM", "QDRANT_COLLECTION"}
#: secrets that have a form
FORMS = {
    "DATABASE_URL": "postgres://me:pw@localhost/tasks",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
    "HTTPS_PROXY": "https://me:pw@proxy.example.com",
    "REDIS_URL": "redis://:pw@localhost",
    "SMTP_URL": "smtps://me:pw@mail.example.com",
    "WEBHOOK_SECRET": f"whsec_{'c2VjcmV0IG9m' * 4}",
}
MAIL = {"SMTP_FROM": "us@example.com"}
SECRETS = [variable.name for variable in variables(GROUPS) if variable.secret]


def load(changes: Mapping[str, str] | None = None, *without: str, dotenv: Path | None = None, **more: str) -> Settings:
    environ = {**REQUIRED, **(changes or {}), **more}
    return load_settings({name: text for name, text in environ.items() if name not in without}, dotenv, groups=GROUPS)


def problems(changes: Mapping[str, str] | None = None, *without: str, dotenv: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(changes, *without, dotenv=dotenv)
    return list(caught.value.problems)


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def value(settings: Settings, variable: str) -> Any:
    """What became of a variable, in whatever group it is."""
    for group in settings.groups():
        for name, field in type(group).model_fields.items():
            if names(field)[0] == variable:
                return getattr(group, name)
    raise AssertionError(variable)


def test_defaults_need_only_the_required_variables() -> None:
    """The five documented variables are enough, and the documented defaults hold."""
    settings = load()
    assert settings.warnings == ()
    assert settings[AuthSettings].token_url == "https://quiet-hill.projects.oryapis.com/oauth2/token"
    assert (settings.ops.metrics_host, settings.ops.metrics_port) == ("127.0.0.1", 8001)
    assert settings.ops.wake_token is None
    assert settings[StoreSettings].data_dir == Path("data")
    assert settings[StoreSettings].outbox_max_bytes == 2**30
    assert settings[ModelSettings].aliases == {}
    assert settings[ModelSettings].embedding_dimensions is None
    assert settings.network.no_proxy == ()


@pytest.mark.parametrize(
    ("name", "text", "parsed"),
    [
        ("API_BASE_URL", "https://api.example.com/nest/", "https://api.example.com/nest"),
        ("REQUEST_TIMEOUT", "0.5", 0.5),
        ("TASK_ID_PATTERN", "[0-9]+", re.compile("[0-9]+")),
        ("OAUTH2_TOKEN_URL", "https://id.example.com/token/", "https://id.example.com/token/"),
        ("OAUTH2_SCOPE", "tasks", "tasks"),
        ("OAUTH2_AUDIENCE", "api", "api"),
        ("OAUTH2_AUTH_METHOD", "Client_Secret_Post", "client_secret_post"),
        ("OAUTH2_ISSUER", "https://id.example.com/", "https://id.example.com/"),
        ("OPENAI_BASE_URL", "http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("OPENAI_TIMEOUT", "9", 9.0),
        ("EMBEDDING_DIMENSIONS", "256", 256),
        ("EMBEDDING_RESULT", "object", "object"),
        ("MODEL_ALIASES", '{"a": "b"}', {"a": "b"}),
        ("DEFAULT_EMBEDDING_MODEL", "nomic", "nomic"),
        ("MAX_RETRIES", "0", 0),
        ("RETRY_BACKOFF_FACTOR", "1.5", 1.5),
        ("POLLING_INTERVAL_SECONDS", "0.1", 0.1),
        ("TASK_SOURCE", "folder", "folder"),
        ("STORE", "memory", "memory"),
        ("SINKS", "s3, kafka", ("s3", "kafka")),
        ("EMBEDDING_PROVIDER", "mock", "mock"),
        ("MARK_IN_PROGRESS", "on", True),
        ("CONCURRENCY_LIMIT", " 7\n", 7),
        ("CONCURRENCY_LIMITS", '{"summarize": 2}', {"summarize": 2}),
        ("DELIVERY_CONCURRENCY", "9", 9),
        ("TASK_TIMEOUT", "1", 1.0),
        ("SHUTDOWN_GRACE_SECONDS", "0", 0.0),
        ("CIRCUIT_BREAKER_THRESHOLD", "1", 1),
        ("DATA_DIR", "/data", Path("/data")),
        ("OUTBOX_MAX_BYTES", "1048576", 2**20),
        ("OUTBOX_MAX_BYTES", "512MiB", 2**29),
        ("VECTOR_CACHE_BYTES", "64MiB", 2**26),
        ("VECTOR_CACHE_BYTES", "0", 0),
        ("METRICS_HOST", "::1", "::1"),
        ("METRICS_PORT", "0", 0),
        ("WAKE_TOKEN", " sixteen letters.\n", SecretStr("sixteen letters.")),
        ("NO_PROXY", "localhost, .internal,", ("localhost", ".internal")),
        ("ALLOW_INSECURE_HTTP", "YES", True),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "JSON", "json"),
    ],
)
def test_a_variable_reaches_its_field(name: str, text: str, parsed: object) -> None:
    assert value(load({name: text}), name) == parsed


def test_the_token_of_operators_is_not_that_of_the_task_api() -> None:
    """Who may call for a poll may not pause."""
    token = "sixteen letters."
    (line,) = problems({"WAKE_TOKEN": token, "CONTROL_TOKEN": token})
    assert line.startswith("CONTROL_TOKEN must not be WAKE_TOKEN, ")
    assert token not in line


def test_delivery_follows_the_slots_unless_it_is_told(tmp_path: Path) -> None:
    """One variable stands in for another, whatever layer has it."""
    (dotenv := tmp_path / ".env").write_text("DELIVERY_CONCURRENCY=9\n")
    assert load().delivery.concurrency == 5
    assert load({"CONCURRENCY_LIMIT": "7"}).delivery.concurrency == 7
    assert load({"CONCURRENCY_LIMIT": "7"}, dotenv=dotenv).delivery.concurrency == 9


URLS = "API_BASE_URL OAUTH2_TOKEN_URL OPENAI_BASE_URL"
NOT_URLS = [
    *("api.example.com", "ftp://api.example.com", "https://", "https://:443", "https://host:port", "https://[::1"),
    *("https://a b.example.com", "https://a.example.com\\@b", "https://a.example.com/\tx"),
]
TIMES = "REQUEST_TIMEOUT OPENAI_TIMEOUT TASK_TIMEOUT POLLING_INTERVAL_SECONDS SHUTDOWN_GRACE_SECONDS"
#: variables, texts, and what the line about them begins with after the name
MISTAKES: list[tuple[str, Sequence[str], str]] = [
    ("CONCURRENCY_LIMIT", ("5.5", "0"), "must be a whole number from 1 to 10000"),
    ("CONCURRENCY_LIMITS", ("2", "summarize=2", '["summarize"]', "[" * 100_000), "must be a JSON object with whole"),
    ("CONCURRENCY_LIMITS", ('{"a": 0}', '{"a": 1.5}', '{"a": true}', '{"a": "2"}'), "must be a JSON object with whole"),
    ("DELIVERY_CONCURRENCY", ("10001",), "must be a whole number from 1 to 10000"),
    ("MAX_RETRIES", ("21",), "must be a whole number from 0 to 20"),
    ("METRICS_PORT", ("65536",), "must be a whole number from 0 to 65535"),
    ("EMBEDDING_DIMENSIONS", ("0",), "must be a whole number from 1 to 65536"),
    ("REQUEST_TIMEOUT", ("0",), "must be a number above 0, up to 86400"),
    ("SHUTDOWN_GRACE_SECONDS", ("-1",), "must be a number from 0 to 86400"),
    (f"{TIMES} RETRY_BACKOFF_FACTOR READ_AHEAD_SECONDS", ("nan", "inf", "-inf", "1e999", "soon"), "must be a number "),
    ("OUTBOX_MAX_BYTES", ("512",), "must be a whole number from 65536 to 1125899906842624"),
    # a size is never cut short: 5,5GiB is not five bytes
    ("OUTBOX_MAX_BYTES", ("5,5GiB", "1GiB extra", "1e999", "9" * 400 + "GiB"), "must be a number of bytes"),
    ("OUTBOX_MAX_BYTES", ("-1", "lots", "1 000 000"), "must be a number of bytes"),
    ("OAUTH2_AUTH_METHOD", ("basic",), "must be one of client_secret_basic, client_secret_post,"),
    ("LOG_FORMAT", ("xml",), "must be one of auto, json, console"),
    ("LOG_LEVEL", ("loud",), "must be one of DEBUG, INFO,"),
    ("ALLOW_INSECURE_HTTP", ("maybe",), "must be true or false"),
    ("ORY_PROJECT_SLUG", ("https://x.projects.oryapis.com", "evil.example/"), "must be the slug alone"),
    ("TASK_ID_PATTERN", ("[", "a{99999999999}"), "must be a regular expression"),
    ("METRICS_HOST", ("http://0.0.0.0", "0.0.0.0:80"), "must be an address or host name"),
    ("CA_BUNDLE", ("/nowhere/ca.pem",), "must name a readable file"),
    ("CA_BUNDLE", (__file__,), "must name a readable file of PEM certificates"),
    ("OPENAI_API_KEY", ("sk“x",), "must be printable ASCII"),
    ("OAUTH2_CLIENT_ID", ("a\nb",), "must be printable ASCII"),
    ("CONTROL_TOKEN", ("only 15 letters",), "must have at least 16 characters: openssl rand -hex 32 makes"),
    ("WAKE_TOKEN", ("only 15 letters",), "must have at least 16 characters: openssl rand -hex 32 makes"),
    ("WAKE_TOKEN", ("sixteen “letters”",), "must be printable ASCII"),
    ("HTTPS_PROXY", ("proxy:3128",), "must be an absolute http or https URL"),
    (URLS, NOT_URLS, "must be an absolute http or https URL"),
    (URLS, ("https://me:pw@api.example.com",), "must not contain a user name or password"),
    (URLS, ("https://api.example.com?x=1", "https://api.example.com/#x"), "must have no query and no fragment"),
    ("MODEL_ALIASES", ("[]", "{", "nomic", "[" * 100_000), "must be a JSON object of texts,"),
    ("MODEL_ALIASES", ('{"a": 1, "b": 2}', '{"a": ""}'), "must be a JSON object of texts,"),
]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [(name, text, problem) for names, texts, problem in MISTAKES for name in names.split() for text in texts],
    ids=lambda each: each[:40],
)
def test_a_mistake_is_one_line_with_the_remedy(name: str, text: str, problem: str) -> None:
    """A line names the variable and what it must be."""
    (line,) = problems({name: text})
    assert without_origin(line).startswith(f"{name} {problem}")


@pytest.mark.parametrize(
    ("reach", "hosts"),
    [
        ("", "localhost localhost. 127.0.0.1 127.9.9.9:3000 [::1]:3000 [::ffff:127.0.0.1]"),
        ("private", "api api.local api.internal api.ns.svc API.NS.SVC.CLUSTER.LOCAL. 10.0.0.1 192.168.1.1 [fd00::1]"),
        ("public", "api.example.com 8.8.8.8 134744072 0x8080808 [2606:4700::1] notlocal.com"),
    ],
)
@pytest.mark.parametrize("name", URLS.split())
def test_plain_http_is_judged_by_how_far_it_travels(name: str, reach: str, hosts: str) -> None:
    """Silent inside this machine, a warning in a cluster, and across the internet only when an operator insists."""
    for url in (f"http://{host}" for host in hosts.split()):
        if reach == "public":
            (line,) = problems({name: url})
            assert line.startswith(f"{name} must use https")
        warnings = load({name: url}, ALLOW_INSECURE_HTTP=str(reach == "public")).warnings
        assert [line.partition(" host")[0] for line in warnings] == [f"{name} is plain http to a {reach}"] * bool(reach)


def test_a_proxy_needs_tls_only_for_its_own_credentials() -> None:
    """Traffic through a proxy stays encrypted; a password for the proxy does not."""
    assert load({"HTTPS_PROXY": "http://proxy.example.com:3128"}).warnings == ()
    warnings = load({"HTTPS_PROXY": "http://me:pw@proxy:3128"}).warnings
    assert warnings[0].startswith("HTTPS_PROXY is plain http to a priv")
    assert problems({"HTTPS_PROXY": "http://me:pw@proxy.example.com:3128"})[0].startswith("HTTPS_PROXY must use https")


QUOTED, COMMENT = "has a value in quotation marks", "has a comment in its value"
INVISIBLE = "has an invisible character in its value"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"{}"', [QUOTED]),
        ("'{}'", [QUOTED]),
        ("“{}”", [QUOTED]),
        (' "{}"\r\n', [QUOTED]),
        ("'{}' # mine", [COMMENT, QUOTED]),
        ("{} # don't", [COMMENT]),
        ("{}\t#mine", [COMMENT]),
        ("# {}", [COMMENT]),
        ("'{} # mine'", [QUOTED]),
        ("{}\u00a0x", [INVISIBLE]),
        ("\ufeff{}", [INVISIBLE]),
        ("x\u200b{}", [INVISIBLE]),
        ('"\ufeff{}"', [INVISIBLE, QUOTED]),
    ],
)
@pytest.mark.parametrize("name", ["DATA_DIR", "OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY", "OAUTH2_AUDIENCE", "NO_PROXY"])
def test_what_an_env_file_adds_to_a_value_is_refused(name: str, text: str, told: list[str]) -> None:
    """``docker run --env-file`` hands quotes and comments on: a line for each with the remedy, never the value."""
    lines = [line for line in problems({name: text.format("Zq7")}) if "missing" not in line]
    assert all(line.startswith(f"{name} {start}") for line, start in zip(lines, told, strict=True))
    assert not [line for line in lines if "Zq7" in line or ": " not in line]


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("OAUTH2_CLIENT_SECRET", "\t s3cret\u00a0\r\n", "s3cret"),
        ("OAUTH2_CLIENT_SECRET", "a'b\"c", "a'b\"c"),
        ("OAUTH2_CLIENT_SECRET", "'ab", "'ab"),
        ("OAUTH2_CLIENT_SECRET", "'ab\"", "'ab\""),
        ("OAUTH2_CLIENT_SECRET", "a#b", "a#b"),
        ("OAUTH2_CLIENT_SECRET", "#ab", "#ab"),
        ("OAUTH2_CLIENT_SECRET", "a$b ${c}", "a$b ${c}"),
        ("MODEL_ALIASES", '{"a #1": "b",\n\t"c": "#"}', {"a #1": "b", "c": "#"}),
    ],
)
def test_what_belongs_to_a_value_stays(name: str, text: str, meant: object) -> None:
    """Quotes that do not enclose it, a ``#`` without a space, ``$``, JSON; not the white space around it."""
    settings = load({name: text})
    found = value(settings, name)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == meant


def test_quotes_and_byte_order_marks_of_secret_files(tmp_path: Path) -> None:
    """Quotes in or around a ``_FILE`` are refused under its name; a byte order mark is an editor's, like a newline."""
    (tmp_path / "quoted").write_text("'sk-live'\n", "utf-8")
    (tmp_path / "marked").write_text("sk # live\n", "utf-8-sig")
    (line,) = problems({"OPENAI_API_KEY_FILE": str(tmp_path / "quoted")}, "OPENAI_API_KEY")
    assert line.startswith("OPENAI_API_KEY_FILE names a file with a value in quotation marks")
    (line,) = problems({"OPENAI_API_KEY_FILE": f'"{tmp_path / "marked"}"'}, "OPENAI_API_KEY")
    assert line.startswith(f"OPENAI_API_KEY_FILE {QUOTED}")
    key = load({"OPENAI_API_KEY_FILE": str(tmp_path / "marked")}, "OPENAI_API_KEY")[ModelSettings].api_key
    assert key == SecretStr("sk # live")


def test_an_unknown_variable_is_nobodys_business() -> None:
    load({"PS1": "'x'", "LESS": "a # b", "EMPTY": '""'})


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """One start is enough to learn all mistakes, across groups, files and contradictions."""
    lines = problems(
        {
            "API_BASE_URL": "http://api.example.com",
            "REQUEST_TIMEOUT": "soon",
            "TASK_ID_PATTERN": "(",
            "OPENAI_API_KEY_FILE": "/nowhere/key",
            "OAUTH2_AUTH_METHOD": "private_key_jwt",
            "CONCURRENCY_LIMIT": "many",
            "LOG_LEVEL": "loud",
        },
        *("ORY_PROJECT_SLUG", "OAUTH2_CLIENT_ID"),
        dotenv=tmp_path,
    )
    mistaken = "CONCURRENCY_LIMIT LOG_LEVEL OAUTH2_CLIENT_ID OAUTH2_PRIVATE_KEY_FILE OPENAI_API_KEY ORY_PROJECT_SLUG"
    expected = [str(tmp_path), "API_BASE_URL", "REQUEST_TIMEOUT", "TASK_ID_PATTERN", *mistaken.split()]
    assert sorted(line.split()[0] for line in lines) == sorted(expected)


def test_missing_variables_name_the_remedy() -> None:
    """With nothing set, the four required ones are asked for, those of other sources, and nothing else."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, None, groups=GROUPS)
    lines = caught.value.problems
    assert "OAUTH2_CLIENT_ID is missing: set it to the id of your machine-to-machine OAuth2 client" in lines
    missing = "API_BASE_URL DATABASE_URL OAUTH2_CLIENT_ID OAUTH2_CLIENT_SECRET ORY_PROJECT_SLUG REDIS_URL"
    missing += " S3_ACCESS_KEY_ID S3_ENDPOINT_URL S3_SECRET_ACCESS_KEY"
    assert sorted(line.split(" is missing: set it to ")[0] for line in lines) == missing.split()


def mistakes(texts: Mapping[str, str]) -> tuple[str, ...]:
    try:
        load(texts)
    except ConfigurationError as error:
        return (*error.problems, str(error.__cause__), str(error.__context__))
    return ()


@example_settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12).map("Zq7-planted{}planted-Zq7".format)))
def test_no_message_repeats_a_long_value(texts: dict[str, str]) -> None:
    """Whatever a variable holds, it loads or is a configuration error that shows nothing that may be a secret."""
    assert "Zq7" not in "".join(mistakes(texts))


@example_settings(deadline=None)
@given(st.dictionaries(st.sampled_from(SECRETS), st.text(max_size=3).map("Zq7{}".format)))
def test_no_message_repeats_a_secret(texts: dict[str, str]) -> None:
    """Not even a short one, and not where another variable has the same text."""
    copied = {"CONCURRENCY_LIMIT": next(iter(texts.values()), "x"), "LOG_LEVEL": "Zq7" if texts else "x"}
    assert "Zq7" not in "".join(mistakes({**texts, **copied}))


@example_settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30)))
def test_any_text_is_settings_or_lines_about_what_was_set(texts: dict[str, str]) -> None:
    """No text escapes as another kind of exception, and every line is about a variable that was given."""
    told = {line.split()[0] for line in mistakes(texts)} - {"None"}
    assert told <= texts.keys() | {"OAUTH2_PRIVATE_KEY_FILE"} | NEEDED


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    """Both are read; for one name the environment decides, and an empty text decides nothing."""
    lines = "\ufeffCONCURRENCY_LIMIT='2'\nexport MAX_RETRIES=1\nLOG_LEVEL=ERROR # quiet\nUNKNOWN=1\n"
    (dotenv := tmp_path / ".env").write_text(lines, "utf-8")
    settings = load({"MAX_RETRIES": "4", "CONCURRENCY_LIMIT": "  "}, dotenv=dotenv)
    found = settings[ModelSettings].max_retries, settings.worker.concurrency_limit, settings.log.level
    assert found == (4, 2, "ERROR")


@pytest.mark.parametrize(
    ("line", "value", "warned"),
    [
        ("abc$def-0123", "abc$def-0123", True),
        ('"abc$def-0123"', "abc$def-0123", True),
        ("a${HOME}b", "a${HOME}b", True),
        ("a${HOME}b # mine", "a${HOME}b", True),
        ("a$$b", "a$$b", True),
        ("'abc$def-${HOME}'", "abc$def-${HOME}", False),
        (" 'a$b'  # mine", "a$b", False),
        ("abc # costs 5 $", "abc", False),
    ],
)
def test_a_dollar_that_compose_would_expand_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, value: str, warned: bool
) -> None:
    """Compose expands ``$`` outside single quotes, we never do: one warning with the name, never the value."""
    monkeypatch.setenv("HOME", "expanded")
    (dotenv := tmp_path / ".env").write_text(f"PS1=$HOME\nexport OAUTH2_CLIENT_SECRET={line}\n", "utf-8")
    settings = load({}, "OAUTH2_CLIENT_SECRET", dotenv=dotenv)
    assert settings[AuthSettings].client_secret == SecretStr(value)
    assert [text.split()[0] for text in settings.warnings] == ["OAUTH2_CLIENT_SECRET"] * warned
    assert value not in "".join(settings.warnings)


def test_a_missing_dotenv_is_no_mistake(tmp_path: Path) -> None:
    assert load(dotenv=tmp_path / ".env") == load()


def test_a_bad_dotenv_is_told(tmp_path: Path) -> None:
    """A ``.env`` that is a directory, is not UTF-8 or has a broken line is a problem with its place."""
    (tmp_path / "latin").write_bytes(b"OAUTH2_SCOPE=caf\xe9\n")
    (tmp_path / "broken").write_text("MAX_RETRIES=1\nOAUTH2_SCOPE='never closed\n", "utf-8")
    assert "cannot be read" in problems(dotenv=tmp_path)[0]
    assert "not UTF-8" in problems(dotenv=tmp_path / "latin")[0]
    assert problems(dotenv=tmp_path / "broken") == [f"{tmp_path}/broken, line 2 is not readable: write NAME=value"]


def test_the_environment_is_read_by_load_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os.environ`` is the default source; a group by itself and an explicit mapping do not see it."""
    monkeypatch.setattr(os, "environ", {**REQUIRED, "MAX_RETRIES": "9"})
    assert load_settings(dotenv=None, groups=GROUPS)[ModelSettings].max_retries == 9
    assert load()[ModelSettings].max_retries == 3
    with pytest.raises(ValidationError):
        ApiSettings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load()[ApiSettings].base_url = "https://elsewhere.example.com"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_come_from_a_file(name: str, tmp_path: Path) -> None:
    """``<NAME>_FILE`` is as good as the variable, the editor's final newline aside."""
    text = FORMS.get(name, "a secret from a file")
    (tmp_path / "secret").write_text(f"{text}\n", "utf-8")
    assert load({f"{name}_FILE": str(tmp_path / "secret"), **MAIL}, name) == load({name: text, **MAIL})


@pytest.mark.parametrize("name", SECRETS)
def test_a_bad_secret_file_is_one_line(name: str, tmp_path: Path) -> None:
    """Missing, a directory, empty, not text: each is reported once, under the name of the ``_FILE`` variable."""
    (tmp_path / "empty").write_text(" \n", "utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, reason in {"missing": "No such file", ".": "directory", "empty": "empty", "binary": "UTF-8"}.items():
        (line,) = problems({f"{name}_FILE": str(tmp_path / path), **MAIL}, name)
        assert line.startswith(f"{name}_FILE ")
        assert reason in line
        assert str(tmp_path) not in line


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_given_twice_is_a_contradiction(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("https://x.example.com", "utf-8")
    changes = {name: "https://x.example.com", f"{name}_FILE": str(tmp_path / "secret"), **MAIL}
    told = f"{name} and {name}_FILE are both set (set in the environment): remove one of them"
    assert problems(changes) == [told]


def test_a_secret_file_in_the_environment_hides_the_secret_of_dotenv(tmp_path: Path) -> None:
    (dotenv := tmp_path / ".env").write_text(f"OPENAI_API_KEY={PLACEHOLDER_KEY}\n", "utf-8")
    (secret := tmp_path / "secret").write_text("sk-file", "utf-8")
    assert load({"OPENAI_API_KEY_FILE": str(secret)}, "OPENAI_API_KEY", dotenv=dotenv)[ModelSettings].mode == "openai"


def test_private_key_jwt_needs_a_key_and_no_secret(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """The key file is read and checked; a secret is not asked for."""
    method = {"OAUTH2_AUTH_METHOD": "private_key_jwt"}
    assert problems(method, "OAUTH2_CLIENT_SECRET")[0].startswith("OAUTH2_PRIVATE_KEY_FILE is missing")
    path = tmp_path / "key.pem"
    path.write_text(pem := pem_of(rsa_key), "utf-8")
    settings = load({**method, "OAUTH2_PRIVATE_KEY_FILE": str(path)}, "OAUTH2_CLIENT_SECRET")
    assert settings[AuthSettings].private_key_pem == SecretStr(pem.strip())


def test_a_key_that_cannot_sign_is_told(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """An encrypted key, a key that is not RSA, no key and a missing file are one line each."""
    (tmp_path / "curve").write_text(pem_of(ec.generate_private_key(ec.SECP256R1())), "utf-8")
    (tmp_path / "encrypted").write_text(pem_of(rsa_key, b"pw"), "utf-8")
    (tmp_path / "garbage").write_text("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", "utf-8")
    for name in ("curve", "encrypted", "garbage", "missing"):
        (line,) = problems({"OAUTH2_PRIVATE_KEY_FILE": str(tmp_path / name)})
        assert line.startswith("OAUTH2_PRIVATE_KEY_FILE ")


def test_a_token_url_replaces_the_slug() -> None:
    url = {"OAUTH2_TOKEN_URL": "https://id.example.com/oauth2/token"}
    for without in ((), ("ORY_PROJECT_SLUG",)):
        assert load(url, *without)[AuthSettings].token_url == url["OAUTH2_TOKEN_URL"], without


@pytest.mark.parametrize(
    ("given_texts", "mode", "warning"),
    [
        ({"OPENAI_API_KEY": "sk-live"}, "openai", None),
        ({"OPENAI_BASE_URL": "http://localhost/v1"}, "openai", None),
        ({"OPENAI_API_KEY": PLACEHOLDER_KEY}, "mock", "OPENAI_API_KEY is the placeholder"),
        ({}, "none", "OPENAI_API_KEY and OPENAI_BASE_URL are not set"),
    ],
)
def test_the_mode_follows_the_key(given_texts: dict[str, str], mode: str, warning: str | None) -> None:
    """Mock vectors are a decision, and no key at all is a warning, not an error."""
    without = () if "OPENAI_API_KEY" in given_texts else ("OPENAI_API_KEY",)
    settings = load(given_texts, *without)
    assert settings[ModelSettings].mode == mode
    assert [line.startswith(warning or "") for line in settings.warnings] == ([True] if warning else [])


def test_secrets_are_handed_to_the_masker_and_shown_nowhere_else(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """Every secret, the proxy's password in both spellings and the key's lines are known; no ``repr`` shows one."""
    path = tmp_path / "key.pem"
    path.write_text(pem := pem_of(rsa_key), "utf-8")
    more = {"HTTPS_PROXY": "https://me:p%40ss@proxy.example.com", "WAKE_TOKEN": (wake := "a-token-to-wake-us")}
    url = "postgresql://me:q%40ss@localhost/x"
    settings = load({"OAUTH2_PRIVATE_KEY_FILE": str(path), "DATABASE_URL": url, **more})
    secrets = settings.secrets()
    passwords = {"p%40ss", "p@ss", "q%40ss", "q@ss"}
    passwords |= {"redis://localhost", "s3cret of the key"}
    assert {"s3cret", "sk-live", wake, url, *passwords, pem.strip(), *pem.splitlines()[1:-1]} == set(secrets)
    assert list(secrets) == sorted(secrets, key=len, reverse=True)
    assert not [secret for secret in secrets if secret in repr(settings)]


def test_the_default_id_pattern_keeps_ids_inside_their_path() -> None:
    """ObjectIds, UUIDs and slugs match as a whole; whatever could leave the path does not."""
    pattern = load()[ApiSettings].task_id_pattern
    good = ["665f0c0000000000000000aa", "task-id", "6f2c2f0e-7a51-4b43-9d3c-0d8d0e6d3a11"]
    bad = ["", "..", "../admin", "a/b", "a?b", "a\n", "a%2fb", "a" * 129]
    assert all(pattern.fullmatch(text) for text in good)
    assert not any(pattern.fullmatch(text) for text in bad)


class Acme(Group):
    """A group of somebody else."""

    url: Endpoint = setting("ACME_URL", "the address of Acme", ...)
    token: SecretStr | None = setting("ACME_TOKEN", "the token for Acme")
    least: int = setting("ACME_LEAST", "the fewest of them", "1", ge=1, le=9)
    most: int = setting("ACME_MOST", "the most of them", "2", ge=1, le=9)

    @classmethod
    def required(cls, given: Mapping[str, str]) -> Iterable[str]:
        return ("ACME_TOKEN",) if given.get("ACME_URL", "").endswith("/private") else ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError("ACME_LEAST is above ACME_MOST: lower it")
        return self


def acme(**given: str) -> Settings:
    return load_settings({f"ACME_{name}": text for name, text in given.items()}, None, groups=[Acme])


def test_a_group_of_somebody_else_is_like_ours(tmp_path: Path) -> None:
    """It needs nothing of ours; its secret may be in a file and is masked, plain http and defaults are as in ours."""
    (tmp_path / "token").write_text("acme-secret\n")
    settings = acme(URL="http://acme/private", TOKEN_FILE=str(tmp_path / "token"))
    assert settings[Acme].token == SecretStr("acme-secret")
    assert (settings[Acme].least, settings.secrets()) == (1, ("acme-secret",))
    assert [line.split()[0] for line in settings.warnings] == ["ACME_URL"]
    names_of_acme = [v.name for v in variables([Acme]) if v.name.startswith("ACME")]
    assert names_of_acme == ["ACME_URL", "ACME_TOKEN", "ACME_LEAST", "ACME_MOST"]


@pytest.mark.parametrize(
    ("given_texts", "told"),
    [
        ({}, ["ACME_URL is missing: set it to the address of Acme"]),
        ({"URL": "https://acme/private"}, ["ACME_TOKEN is missing: set it to the token for Acme"]),
        (
            {"URL": "https://acme", "LEAST": "3"},
            ["ACME_LEAST is above ACME_MOST: lower it"],
        ),
        (
            {"URL": "https://acme", "MOST": "10"},
            ["ACME_MOST must be a whole number from 1 to 9"],
        ),
    ],
)
def test_the_mistakes_of_somebody_elses_group(given_texts: dict[str, str], told: list[str]) -> None:
    """Fields, what is required only then, and what fields say together: lines of one kind."""
    with pytest.raises(ConfigurationError) as caught:
        acme(**given_texts)
    assert [without_origin(line) for line in caught.value.problems] == told


def test_a_group_that_is_not_selected_is_not_read() -> None:
    """Neither required nor parsed; asked for, it is not there."""
    settings = load_settings({"API_BASE_URL": "nonsense", "OPENAI_TIMEOUT": "soon"}, None, groups=[])
    with pytest.raises(KeyError):
        settings[ApiSettings]


def test_one_group_alone() -> None:
    assert load_group(StoreSettings, {"DATA_DIR": "/here", "TASK_TIMEOUT": "soon"}, None).data_dir == Path("/here")
    with pytest.raises(ConfigurationError, match="OUTBOX_MAX_BYTES must be a number of bytes"):
        load_group(StoreSettings, {"OUTBOX_MAX_BYTES": "lots"}, None)


def test_only_secrets_are_renewed() -> None:
    """A later look takes secrets; a key that would change the mode stays as it was."""
    before = load()
    later = load({"OPENAI_API_KEY": "sk-new", "OPENAI_TIMEOUT": "9"})[ModelSettings]
    mock = load({"OPENAI_API_KEY": PLACEHOLDER_KEY})[ModelSettings]
    renewed = before[ModelSettings].renewed(later)
    assert (renewed.api_key, renewed.timeout_s) == (SecretStr("sk-new"), 60)
    assert before[ModelSettings].renewed(mock) == before[ModelSettings]


def test_a_mistake_says_value_origin_and_default(tmp_path: Path) -> None:
    """From the environment, from a line of ``.env``, set to nothing there, from a profile; a secret is only ``set``."""
    lines = "# mine\n\nLOG_LEVEL=loud\nMAX_RETRIES='many'\nAPI_BASE_URL=\nWAKE_TOKEN=short\n"
    (dotenv := tmp_path / ".env").write_text(lines, "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(
            {**REQUIRED, "API_BASE_URL": "", "CONCURRENCY_LIMIT": "5.5", "OAUTH2_SCOPE": "'x'"},
            dotenv,
            groups=GROUPS,
            defaults={"TASK_TIMEOUT": "soon"},
        )
    assert {line.split()[0]: line.partition(" (")[2] for line in caught.value.problems} == {
        "LOG_LEVEL": f"'loud' in {dotenv}, line 3; default INFO)",
        "MAX_RETRIES": f"'many' in {dotenv}, line 4; default 3)",
        "API_BASE_URL": f"set to nothing in {dotenv}, line 5): set it to the base URL of the task API",
        "WAKE_TOKEN": f"set in {dotenv}, line 6): openssl rand -hex 32 makes a good one",
        "CONCURRENCY_LIMIT": "'5.5' in the environment; default 5)",
        "TASK_TIMEOUT": "'soon' in the profile of the source; default 300)",
        "OAUTH2_SCOPE": "3 characters in the environment; default read write): remove them",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5,5GiB", "'5,5GiB'"),
        ("client_secret_jwt", "17 characters"),
        ("api.example.com/v1", "18 characters"),
        ("ftp://api.example.com:21/a?key=b", "'ftp://api.example.com:21/…'"),
        ("https://me:pw@api.example.com", "29 characters"),
        ("hunter2", "7 characters"),
        ("https://hunter2.example.com", "27 characters"),
    ],
)
def test_what_a_message_shows_of_a_value(text: str, said: str) -> None:
    assert shown(text, ["hunter2"]) == said


def test_a_misspelled_name_is_a_warning(tmp_path: Path) -> None:
    """With its place; beside a mistake it is a line of its own, because it may be the cause."""
    (dotenv := tmp_path / ".env").write_text("\nCONCURENCY_LIMIT=7\nPOSTGRES_PASSWORD=x\n", "utf-8")
    line = f"CONCURENCY_LIMIT is no setting, and set in {dotenv}, line 2: did you mean CONCURRENCY_LIMIT?"
    assert load(dotenv=dotenv).warnings == (line,)
    assert problems({"API_BASE_ULR": "https://x"}, "API_BASE_URL") == [
        "API_BASE_URL is missing: set it to the base URL of the task API",
        "API_BASE_ULR is no setting, and set in the environment: did you mean API_BASE_URL?",
    ]
