"""The settings: one frozen group per component, read once at the edge and handed in.

``load_settings`` is the only entry. It lays the environment over ``.env``, reads secret files and
collects every mistake before it gives up. A new setting is one field here and one line in ``.env.example``.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ai_task_processor.core import environment, syntax
from ai_task_processor.core.errors import ConfigurationError

PLACEHOLDER_KEY = "your_openai_api_key_here"

Url = Annotated[str, AfterValidator(syntax.base_url)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Printable = BeforeValidator(syntax.printable)
Lower = BeforeValidator(str.lower)
AuthMethod = Annotated[Literal["client_secret_basic", "client_secret_post", "private_key_jwt"], Lower]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)]


G = TypeVar("G", bound="Group")


def _var(name: str, meaning: str, default: Any = None, *, ge: int | None = None, le: int | None = None) -> Any:
    """A field read from the variable ``name``. ``meaning`` completes "set it to".

    ``default``: the text that stands for it in ``.env``, parsed like one; ``...`` when there must be one.
    """
    parsed = isinstance(default, str)
    return Field(default, validation_alias=name, description=meaning, validate_default=parsed, ge=ge, le=le)


class Group(BaseSettings):
    """The settings of one component."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the name belongs to the signature of the library
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load_settings`` hands in: it merges the sources itself, to report on all of them at once."""
        return (init_settings,)


class ApiSettings(Group):
    """The task API."""

    base_url: Url = _var("API_BASE_URL", "the base URL of the task API", ...)
    request_timeout_s: Seconds = _var("REQUEST_TIMEOUT", "seconds for one request to the task API, in total", "30")
    task_id_pattern: Annotated[re.Pattern[str], BeforeValidator(syntax.pattern)] = _var(
        "TASK_ID_PATTERN",
        "the regular expression that a whole task id must match",
        "^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$",
    )
    mark_in_progress: Annotated[bool, BeforeValidator(syntax.flag)] = _var(
        "MARK_IN_PROGRESS", "true to set tasks to in_progress while they are worked on", "false"
    )
    read_ahead_bytes: Annotated[ByteSize, BeforeValidator(syntax.byte_count)] = _var(
        "READ_AHEAD_BYTES",
        "the memory for tasks of one list that wait for free slots; bytes, or like 16MiB; 0 to list again for each",
        "4MiB", ge=0, le=2**40,
    )  # fmt: skip
    read_ahead_s: float = _var(
        "READ_AHEAD_SECONDS", "for how many seconds one list may serve free slots; 0 to list again for each", "30",
        ge=0, le=86400,
    )  # fmt: skip


class AuthSettings(Group):
    """The OAuth2 client, and the server that gives it tokens."""

    project_slug: Annotated[str, AfterValidator(syntax.project_slug)] | None = _var(
        "ORY_PROJECT_SLUG", "the slug of your Ory project (not needed with OAUTH2_TOKEN_URL)"
    )
    custom_token_url: Annotated[str, AfterValidator(syntax.endpoint_url)] | None = _var(
        "OAUTH2_TOKEN_URL", "the token endpoint of another OAuth2 server; wins over ORY_PROJECT_SLUG"
    )
    client_id: Annotated[str, Printable] = _var(
        "OAUTH2_CLIENT_ID", "the id of your machine-to-machine OAuth2 client", ...
    )
    client_secret: Annotated[SecretStr | None, Printable] = _var(
        "OAUTH2_CLIENT_SECRET", "the secret of that client (not needed for private_key_jwt)"
    )
    scope: str = _var("OAUTH2_SCOPE", "the scopes to ask for", "read write")
    audience: str | None = _var("OAUTH2_AUDIENCE", "the audience sent with every token request")
    auth_method: AuthMethod = _var(
        "OAUTH2_AUTH_METHOD", "client_secret_basic, client_secret_post or private_key_jwt", "client_secret_basic"
    )
    private_key_pem: Annotated[SecretStr | None, BeforeValidator(syntax.private_key)] = _var(
        "OAUTH2_PRIVATE_KEY_FILE", "the path of the RSA private key (PEM) for private_key_jwt"
    )
    issuer: str | None = _var("OAUTH2_ISSUER", "the audience of a private_key_jwt assertion; the token URL if not set")

    @property
    def token_url(self) -> str:
        """Where tokens come from."""
        return self.custom_token_url or f"https://{self.project_slug}.projects.oryapis.com/oauth2/token"


class ModelSettings(Group):
    """The model side: whom to call, with what, and how patiently."""

    api_key: Annotated[SecretStr | None, Printable] = _var(
        "OPENAI_API_KEY", f"the key of the model API; {PLACEHOLDER_KEY} switches to mock vectors"
    )
    base_url: Url | None = _var("OPENAI_BASE_URL", "the base URL of a compatible server; OpenAI's if not set")
    timeout_s: Seconds = _var("OPENAI_TIMEOUT", "seconds for one model call, in total", "60")
    embedding_dimensions: int | None = _var(
        "EMBEDDING_DIMENSIONS", "the length of a vector, asked for and checked; the model's own if not set",
        ge=1, le=65536,
    )  # fmt: skip
    embedding_result: Annotated[Literal["vector", "object"], Lower] = _var(
        "EMBEDDING_RESULT", "what is sent as result: vector (plain), or object (with model and usage)", "vector"
    )
    aliases: Annotated[Mapping[str, str], BeforeValidator(syntax.name_map)] = _var(
        "MODEL_ALIASES", "a JSON object from model names in tasks to names at the provider", "{}"
    )
    default_embedding_model: str = _var(
        "DEFAULT_EMBEDDING_MODEL", "the model for tasks that name none", "text-embedding-3-small"
    )
    max_retries: int = _var("MAX_RETRIES", "attempts after the first for one model call", "3", ge=0, le=20)
    retry_backoff_factor: Annotated[float, Field(gt=0, le=60)] = _var(
        "RETRY_BACKOFF_FACTOR", "the base of the exponential backoff", "2.0"
    )

    vector_cache_bytes: Annotated[ByteSize, BeforeValidator(syntax.byte_count)] = _var(
        "VECTOR_CACHE_BYTES", "the memory for vectors of texts that may come again; bytes, or like 64MiB; 0 for none",
        "2MiB", ge=0, le=2**40,
    )  # fmt: skip

    @property
    def mode(self) -> Literal["openai", "mock", "none"]:
        """``mock`` is a decision (the placeholder); ``none`` says that there is nobody to call."""
        if self.api_key is not None and self.api_key.get_secret_value() == PLACEHOLDER_KEY:
            return "mock"
        return "openai" if self.api_key or self.base_url else "none"


class WorkerSettings(Group):
    """The scheduler: how often to ask, how much at once, how long to wait."""

    polling_interval_s: Seconds = _var(
        "POLLING_INTERVAL_SECONDS", "the longest pause in seconds between two polls with nothing to do", "30"
    )
    concurrency_limit: int = _var("CONCURRENCY_LIMIT", "tasks being processed at once", "5", ge=1, le=10000)
    task_timeout_s: Seconds = _var("TASK_TIMEOUT", "seconds for one attempt of one task", "300")
    shutdown_grace_s: float = _var(
        "SHUTDOWN_GRACE_SECONDS", "seconds to finish what runs after SIGTERM", "25", ge=0, le=86400
    )
    circuit_breaker_threshold: int = _var(
        "CIRCUIT_BREAKER_THRESHOLD", "consecutive failures that open a circuit", "5", ge=1, le=1000
    )


class DeliverySettings(Group):
    """Reporting results back."""

    concurrency: int = _var(
        "DELIVERY_CONCURRENCY", "results being reported at once; CONCURRENCY_LIMIT if not set", "5", ge=1, le=10000
    )


class StoreSettings(Group):
    """The outbox on disk."""

    data_dir: Path = _var("DATA_DIR", "the directory of the outbox", "./data")
    outbox_max_bytes: Annotated[ByteSize, BeforeValidator(syntax.byte_count)] = _var(
        "OUTBOX_MAX_BYTES", "the size at which claiming stops; bytes, or like 512MiB", "1GiB",
        ge=2**16, le=2**50,
    )  # fmt: skip


class OpsSettings(Group):
    """Where ``/health``, ``/ready``, ``/metrics`` and ``/status`` are served, and ``/wake`` to who knows the token."""

    metrics_host: Annotated[str, AfterValidator(syntax.bind_host)] = _var(
        "METRICS_HOST", "the address to listen on", "127.0.0.1"
    )
    metrics_port: int = _var("METRICS_PORT", "the port to listen on; 0 takes a free one", "8001", ge=0, le=65535)
    wake_token: Annotated[SecretStr | None, BeforeValidator(syntax.shared_secret)] = _var(
        "WAKE_TOKEN", "the secret that lets the task API call for a poll with POST /wake"
    )


class NetworkSettings(Group):
    """What every HTTP client shares; nothing else of the environment reaches one."""

    ca_bundle: Annotated[Path, AfterValidator(syntax.ca_file)] | None = _var(
        "CA_BUNDLE", "a file of PEM certificates to trust"
    )
    client_cert_file: Path | None = _var(
        "CLIENT_CERT_FILE",
        "a PEM file of the certificate that is shown to https remotes, with those of its authorities",
    )
    client_key_file: Path | None = _var(
        "CLIENT_KEY_FILE", "the PEM file of that certificate's private key; CLIENT_CERT_FILE if not set"
    )
    client_key_password: SecretStr | None = _var("CLIENT_KEY_PASSWORD", "the password of that private key")
    https_proxy: Annotated[SecretStr | None, BeforeValidator(syntax.proxy_url)] = _var(
        "HTTPS_PROXY", "the URL of a proxy; a user and password may stand in it"
    )
    no_proxy: Annotated[tuple[str, ...], BeforeValidator(syntax.host_list)] = _var(
        "NO_PROXY", "the hosts to reach without the proxy, separated by commas or spaces", ""
    )
    allow_insecure_http: Annotated[bool, BeforeValidator(syntax.flag)] = _var(
        "ALLOW_INSECURE_HTTP", "true to permit plain http to public hosts", "false"
    )

    def client_certificate_problems(self) -> list[str]:
        """What is wrong with the client certificate just now."""
        password = self.client_key_password
        if self.client_cert_file is not None:
            secret = None if password is None else password.get_secret_value()
            return syntax.client_certificate_problems(
                self.client_cert_file, self.client_key_file, secret, datetime.now(UTC)
            )
        if self.client_key_file is not None:
            return ["CLIENT_KEY_FILE is set without CLIENT_CERT_FILE: set that to the PEM file of its certificate"]
        return []


class LogSettings(Group):
    """What is logged, and how it looks."""

    level: Level = _var("LOG_LEVEL", "the least severe level that is logged", "INFO")
    format: Annotated[Literal["auto", "json", "console"], Lower] = _var(
        "LOG_FORMAT", "json, console, or auto (json unless stderr is a terminal)", "auto"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the daemon was told. ``warnings``: valid, but worth a line at start."""

    api: ApiSettings
    auth: AuthSettings
    model: ModelSettings
    worker: WorkerSettings
    delivery: DeliverySettings
    store: StoreSettings
    ops: OpsSettings
    network: NetworkSettings
    log: LogSettings
    warnings: tuple[str, ...] = ()

    def secrets(self) -> tuple[str, ...]:
        """Every text that must never be shown, longest first: lines of the private key and the proxy's password too."""
        auth, network = self.auth, self.network
        held = (
            auth.client_secret,
            auth.private_key_pem,
            self.model.api_key,
            self.ops.wake_token,
            network.client_key_password,
        )
        secrets = {secret.get_secret_value() for secret in held if secret}
        if auth.private_key_pem:  # a log line rarely holds the whole key
            lines = auth.private_key_pem.get_secret_value().splitlines()
            secrets |= {line for line in lines if not line.startswith("-----")}
        if network.https_proxy:
            password = urlsplit(network.https_proxy.get_secret_value()).password or ""
            secrets |= {password, unquote(password)}
        return tuple(sorted(secrets - {""}, key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as documentation shows it. ``default``: as text, empty when there is none.

    ``secret``: it can also come from a file, named by ``<NAME>_FILE``.
    """

    name: str
    meaning: str
    default: str
    secret: bool


_GROUPS: Mapping[str, type[Group]] = {
    member.name: member.type
    for member in fields(Settings)
    if isinstance(member.type, type) and issubclass(member.type, Group)
}
_FIELDS: Mapping[str, FieldInfo] = {
    str(field.validation_alias): field for group in _GROUPS.values() for field in group.model_fields.values()
}
#: variables that name a secret file, and the variable that the file stands for
_FILES: Mapping[str, str] = {
    name if name.endswith("_FILE") else f"{name}_FILE": name
    for name, field in _FIELDS.items()
    if SecretStr in get_args(field.annotation)
}
_NAMES = frozenset({*_FIELDS, *_FILES})
_MODE_WARNINGS: Mapping[str, Sequence[str]] = {
    "openai": (),
    "mock": ("OPENAI_API_KEY is the placeholder: mock vectors are made, no model is called",),
    "none": ("OPENAI_API_KEY and OPENAI_BASE_URL are not set: embedding tasks stay pending",),
}


def variables() -> Sequence[Variable]:
    """Every variable that is read, in the order of the groups, without the ``<NAME>_FILE`` forms."""
    secrets = {name for file, name in _FILES.items() if file != name}
    defaults = {name: field.default if isinstance(field.default, str) else "" for name, field in _FIELDS.items()}
    return [Variable(name, field.description or "", defaults[name], name in secrets) for name, field in _FIELDS.items()]


def load_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """The settings of this process: the environment, and below it ``.env`` when there is one.

    Raises ``ConfigurationError`` with a line for every mistake; none repeats a value.
    """
    below, problems = environment.read_dotenv(dotenv) if dotenv else ({}, [])
    given = environment.layered(os.environ if environ is None else environ, below, _FILES)
    given = environment.bare(given, _NAMES, problems)
    problems += environment.missing_credentials(given)
    texts = environment.with_file_contents(given, _FILES, problems)
    warnings = environment.dollar_warnings(dotenv, _NAMES) if dotenv else []
    warnings += environment.plain_http_warnings(texts, problems)
    groups: dict[str, Any] = {name: _parsed(group, texts, problems) for name, group in _GROUPS.items()}
    if groups["network"] is not None:
        problems += groups["network"].client_certificate_problems()
    if problems:
        raise ConfigurationError(*problems)
    if "DELIVERY_CONCURRENCY" not in texts:
        limit = groups["worker"].concurrency_limit
        groups["delivery"] = groups["delivery"].model_copy(update={"concurrency": limit})
    return Settings(**groups, warnings=(*warnings, *_MODE_WARNINGS[groups["model"].mode]))


def load_store(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> StoreSettings:
    """Where the outbox is, for commands that need nothing else. Raises ``ConfigurationError``."""
    below, problems = environment.read_dotenv(dotenv) if dotenv else ({}, [])
    given = environment.layered(os.environ if environ is None else environ, below, _FILES)
    own = [str(field.validation_alias) for field in StoreSettings.model_fields.values()]
    store = _parsed(StoreSettings, environment.bare(given, own, problems), problems)
    if store is None or problems:
        raise ConfigurationError(*problems)
    return store


def _parsed(group: type[G], texts: Mapping[str, str], problems: list[str]) -> G | None:
    names = [str(field.validation_alias) for field in group.model_fields.values()]
    try:
        return group.model_validate({name: texts[name] for name in names if name in texts})
    except ValidationError as invalid:
        errors = invalid.errors(include_input=False, include_context=False, include_url=False)
        problems += [_sentence(str(error["loc"][0]), error["type"], error["msg"]) for error in errors]
        return None


def _sentence(name: str, kind: str, message: str) -> str:
    field = _FIELDS[name]
    if kind == "missing":
        return f"{name} is missing: set it to {field.description}"
    if kind == "value_error":  # a sentence of ours
        return f"{name} {message.removeprefix('Value error, ')}"
    bounds = {key: getattr(m, key) for m in field.metadata for key in ("ge", "gt", "le") if hasattr(m, key)}
    if not bounds:
        return f"{name} must be one of {', '.join(get_args(field.annotation))}"
    number = "number" if field.annotation is float else "whole number"
    lowest = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}, up"
    return f"{name} must be a {number} {lowest} to {bounds['le']}"
