"""The settings of every daemon. Each component declares its own group; ``reading`` reads them.

A new setting is one field of a group and one line in ``.env.example``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, cast
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import (
    SENTENCES,
    Encrypted,
    Endpoint,
    G,
    Group,
    Lower,
    Seconds,
    Url,
    setting,
)

Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)]
Names = Annotated[tuple[str, ...], BeforeValidator(syntax.name_list)]
Limits = Annotated[Mapping[str, int], BeforeValidator(syntax.type_limits)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(syntax.path_list)]


class PartsSettings(Group):
    """Which components are used: names of built-ins or of installed plug-ins."""

    section = "Parts"

    task_source: str = setting(
        "TASK_SOURCE",
        "the name of the source of tasks",
        "aletheia",
        note=(
            "`ai-task-processor sources list` shows them; the path of a profile works, too (docs/profiles.md). "
            "Settings of parts that are not selected are not read."
        ),
    )
    store: str = setting("STORE", "the name of the store that keeps results", "sqlite")
    sinks: Names = setting(
        "SINKS",
        "the names of further destinations of results, separated by commas",
        "",
        note=(
            "kafka, webhook, smtp, s3, qdrant, or those of installed packages; those that the profile names if not set."
        ),
    )
    embedding_provider: str = setting(
        "EMBEDDING_PROVIDER",
        "the name of the provider of embeddings",
        "openai",
        note="openai (or a compatible server), or mock.",
    )
    enabled_task_types: Names = setting(
        "ENABLED_TASK_TYPES",
        "the task types that this daemon takes, separated by commas",
        "",
        note=(
            "Not set: the types of the profile (aletheia: text_embedding and those of claims), and all of "
            "TASK_TYPES and plug-ins. Others must be named: summarize, chat, echo, sleep, simulate, search, "
            "search_batch, fetch_url."
        ),
    )
    task_types: Paths = setting(
        "TASK_TYPES",
        "files or folders with prompt types in TOML, with colons between",
        "",
        note="docs/prompt-types.md says how to write one.",
    )
    chat_provider: str = setting(
        "CHAT_PROVIDER",
        "the name of the provider of chat models",
        "openai",
        note="openai (or a compatible server), or mock.",
    )

    def takes(self, task_type: str) -> bool:
        """Whether tasks of this type are processed here, if something can. ``-`` in a name means ``_``, too."""
        names = {name.replace("-", "_") for name in self.enabled_task_types}
        return not names or task_type.replace("-", "_") in names


class WorkerSettings(Group):
    """The scheduler: polling, concurrency, timeouts."""

    section = "Work"

    polling_interval_s: Seconds = setting(
        "POLLING_INTERVAL_SECONDS", "the longest pause in seconds between two polls with nothing to do", "30"
    )
    concurrency_limit: int = setting("CONCURRENCY_LIMIT", "tasks being processed at once", "5", ge=1, le=10000)
    concurrency_limits: Limits = setting(
        "CONCURRENCY_LIMITS",
        "a JSON object with the most tasks at once of some types",
        "",
        note='{"summarize": 2} leaves the other slots to other types.',
    )
    task_timeout_s: Seconds = setting("TASK_TIMEOUT", "seconds for one attempt of one task", "300")
    shutdown_grace_s: float = setting(
        "SHUTDOWN_GRACE_SECONDS",
        "seconds to finish what runs after SIGTERM",
        "25",
        ge=0,
        le=86400,
        note="Keep it below the grace period of the container.",
    )
    circuit_breaker_threshold: int = setting(
        "CIRCUIT_BREAKER_THRESHOLD", "consecutive failures that open a circuit", "5", ge=1, le=1000
    )


class DeliverySettings(Group):
    """Reporting results back."""

    section = "Work"

    own_concurrency: int | None = setting(
        "DELIVERY_CONCURRENCY", "results being reported at once; CONCURRENCY_LIMIT if not set", ge=1, le=10000
    )
    concurrency_limit: int = setting("CONCURRENCY_LIMIT", "tasks being processed at once", "5", ge=1, le=10000)

    @property
    def concurrency(self) -> int:
        """How many results are reported at once."""
        return self.own_concurrency or self.concurrency_limit


class OpsSettings(Group):
    """Where ``/health``, ``/ready``, ``/metrics``, ``/status`` and the page are served, and the tokens of actions."""

    section = "Health and metrics"

    metrics_host: Annotated[str, Field(pattern=r"^([\w.-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)$")] = setting(
        "METRICS_HOST",
        "an address or host name to listen on, without scheme and port",
        "127.0.0.1",
        note="/health, /ready, /metrics and /status are served there. The image sets 0.0.0.0.",
    )
    metrics_port: int = setting("METRICS_PORT", "the port to listen on; 0 takes a free one", "8001", ge=0, le=65535)
    status_page: bool = setting(
        "STATUS_PAGE", "false to serve no page for people at /", "true", note="It is read-only, and shows /status."
    )
    wake_token: Annotated[SecretStr | None, BeforeValidator(syntax.shared_secret)] = setting(
        "WAKE_TOKEN",
        "the secret that lets the task API call for a poll with POST /wake",
        note="At least 16 characters; not set: no such path.",
    )
    control_token: Annotated[SecretStr | None, BeforeValidator(syntax.shared_secret)] = setting(
        "CONTROL_TOKEN",
        "the secret that lets operators pause, resume and set the log level",
        note="At least 16 characters, and not WAKE_TOKEN; not set: no such paths.",
    )

    @field_validator("control_token")
    @classmethod
    def _differs(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if token is not None and token == info.data.get("wake_token"):
            raise ValueError("must not be WAKE_TOKEN, which the task API knows: openssl rand -hex 32 makes another")
        return token


class NetworkSettings(Group):
    """What every HTTP client uses; clients read nothing else from the environment."""

    section = "Network"

    ca_bundle: Annotated[Path, AfterValidator(syntax.ca_file)] | None = setting(
        "CA_BUNDLE", "a file of PEM certificates to trust"
    )
    client_cert_file: Path | None = setting(
        "CLIENT_CERT_FILE",
        "a PEM file of the certificate that is shown to https remotes, with those of its authorities",
    )
    client_key_file: Path | None = setting(
        "CLIENT_KEY_FILE", "the PEM file of that certificate's private key; CLIENT_CERT_FILE if not set"
    )
    client_key_password: SecretStr | None = setting("CLIENT_KEY_PASSWORD", "the password of that private key", "")
    https_proxy: Annotated[SecretStr, BeforeValidator(syntax.proxy_url), Encrypted] | None = setting(
        "HTTPS_PROXY",
        "the URL of a proxy; a user and password may stand in it",
        note="For example http://user:password@proxy.example.com:3128.",
    )
    no_proxy: Names = setting("NO_PROXY", "the hosts to reach without the proxy, separated by commas or spaces", "")
    allow_insecure_http: bool = setting(
        "ALLOW_INSECURE_HTTP",
        "true to permit plain http to public hosts",
        "false",
        note="It is accepted to this machine, and to private hosts with a warning.",
    )

    def secrets(self) -> Iterable[str]:
        """Of the proxy only its password, percent-encoded and decoded: its address may be shown."""
        proxy = self.https_proxy.get_secret_value() if self.https_proxy else ""
        password = urlsplit(proxy).password or ""
        return [*(secret for secret in super().secrets() if secret != proxy), password, unquote(password)]

    @field_validator("client_key_password")
    @classmethod
    def _shows_a_certificate(cls, password: SecretStr, info: ValidationInfo) -> SecretStr | None:
        """At the last of the three fields: a validator of the group is not called when any other field is wrong."""
        given = password if password.get_secret_value() else None
        if {"client_cert_file", "client_key_file"} <= info.data.keys():
            problems = _certificate_problems(info.data["client_cert_file"], info.data["client_key_file"], given)
            if problems:
                raise PydanticCustomError(SENTENCES, "\n".join(problems))
        return given

    def client_certificate_problems(self) -> list[str]:
        """What is wrong with the client certificate now; a line for each problem."""
        return _certificate_problems(self.client_cert_file, self.client_key_file, self.client_key_password)


def _certificate_problems(cert: Path | None, key: Path | None, password: SecretStr | None) -> list[str]:
    if cert is not None:
        secret = None if password is None else password.get_secret_value()
        return syntax.client_certificate_problems(cert, key, secret, datetime.now(UTC))
    if key is not None:
        return ["CLIENT_KEY_FILE is set without CLIENT_CERT_FILE: set that to the PEM file of its certificate"]
    return []


class LogSettings(Group):
    """Level and format of logs."""

    section = "Logs"

    level: Level = setting("LOG_LEVEL", "the least severe level that is logged", "INFO")
    format: Annotated[Literal["auto", "json", "console"], Lower] = setting(
        "LOG_FORMAT", "json, console, or auto (json unless stderr is a terminal)", "auto"
    )


class TraceSettings(Group):
    """Traces over OTLP. The SDK reads the other ``OTEL_`` variables."""

    section = "Traces"

    trace_parent: bool = setting(
        "TRACE_PARENT", "true to make attempts children of the span that their task names, not just linked", "false"
    )
    endpoint: Url | None = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "the base URL of a receiver of OTLP over HTTP, without /v1/traces",
        note="Like http://localhost:4318; no traces if not set. The OpenTelemetry SDK (extra otel) also reads its other"
        " OTEL_ variables (docs/traces.md).",
    )
    traces_endpoint: Endpoint | None = setting(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "the whole URL of such a receiver, with /v1/traces"
    )
    headers: Annotated[SecretStr, BeforeValidator(syntax.header_pairs)] | None = setting(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "the headers of what is sent to the receiver, as name=value with commas between",
        note="In percent-encoding.",
    )
    disabled: bool = setting("OTEL_SDK_DISABLED", "true to send no traces", "false")

    def secrets(self) -> Iterable[str]:
        return syntax.header_secrets(self.headers.get_secret_value()) if self.headers else ()

    @property
    def endpoint_variable(self) -> str | None:
        """The variable that turns traces on; None when they are off."""
        if self.disabled:
            return None
        return next((name for name in self.variables() if name.endswith("_ENDPOINT")), None)

    def variables(self) -> Mapping[str, str]:
        """What the SDK reads of these, by variable."""
        texts = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.traces_endpoint,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": self.headers.get_secret_value() if self.headers else None,
        }
        return {name: text for name, text in texts.items() if text is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. ``settings[AGroup]``: a group of the core or of a selected component.

    ``warnings``: lines about valid values, to be logged at the start. ``usual_types``: the types that the source names
    for built-in processors, which are taken when ``ENABLED_TASK_TYPES`` is not set; None when it names none.
    ``defaults``: texts of variables that the profile of the source sets.
    """

    parts: PartsSettings
    worker: WorkerSettings
    delivery: DeliverySettings
    ops: OpsSettings
    network: NetworkSettings
    log: LogSettings
    trace: TraceSettings
    components: Mapping[type[Group], Group]
    warnings: tuple[str, ...] = ()
    usual_types: Collection[str] | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, group: type[G]) -> G:
        return cast("G", {type(each): each for each in self.groups()}[group])

    def groups(self) -> Iterator[Group]:
        """All groups."""
        yield from (getattr(self, name) for name in CORE)
        yield from self.components.values()

    def secrets(self) -> tuple[str, ...]:
        """Every text that must never be shown, longest first."""
        secrets = {secret for group in self.groups() for secret in group.secrets()}
        return tuple(sorted(secrets - {""}, key=len, reverse=True))


#: the groups of every daemon, by their names in ``Settings``
CORE: Mapping[str, type[Group]] = {
    member.name: member.type
    for member in fields(Settings)
    if isinstance(member.type, type) and issubclass(member.type, Group)
}
