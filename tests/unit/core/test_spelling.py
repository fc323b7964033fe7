"""Misspelled names of variables are found, and names of others never."""

import pytest

from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.spelling import misspelled, nearest
from ai_task_processor.core.variables import variables

KNOWN = {
    form
    for variable in variables(built_in_groups())
    for form in (variable.name, *([f"{variable.name}_FILE"] if variable.secret else []))
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CONCURENCY_LIMIT", "CONCURRENCY_LIMIT"),
        ("CONCURRENCY_LIMTS", "CONCURRENCY_LIMITS"),
        ("TASK_TIMEOUTS", "TASK_TIMEOUT"),
        ("POLLING_INTERVAL", "POLLING_INTERVAL_SECONDS"),
        ("TASK_TIMEOUT_SECONDS", "TASK_TIMEOUT"),
        ("API_BASE_ULR", "API_BASE_URL"),
        ("S3_ENDPOINT", "S3_ENDPOINT_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("concurrency_limit", "CONCURRENCY_LIMIT"),
        ("ENABLED_TASKS_TYPES", "ENABLED_TASK_TYPES"),
        ("OAUTH2_CLIENT_SECRETS_FILE", "OAUTH2_CLIENT_SECRET_FILE"),
        ("METRIC_PORT", "METRICS_PORT"),
        ("METRICS_PORT_FILE", "METRICS_PORT"),
    ],
)
def test_a_misspelled_variable_is_recognized(name: str, meant: str) -> None:
    assert misspelled([name], KNOWN) == {name: meant}


ORDINARY = """
PATH HOME HOSTNAME PWD SHLVL LANG LC_ALL LOGNAME USER SHELL TERM PS1 TZ TMPDIR DISPLAY EDITOR DEBUG PORT HOST STORAGE
API_KEY API_URL APP_SECRET SECRET_KEY HTTP_PROXY http_proxy https_proxy no_proxy all_proxy ALL_PROXY FTP_PROXY
LOG_FORMATTER LOG_FILE LOG_DIR DATA_PATH XDG_DATA_DIRS XDG_DATA_HOME CURL_CA_BUNDLE REQUESTS_CA_BUNDLE SSL_CERT_FILE
OTEL_EXPORTER_OTLP_METRICS_ENDPOINT OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
OTEL_SERVICE_NAME OTEL_LOG_LEVEL OTEL_TRACES_SAMPLER OTEL_METRICS_EXPORTER
KUBERNETES_PORT KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT KUBERNETES_PORT_443_TCP_PORT
AI_TASK_PROCESSOR_PORT AI_TASK_PROCESSOR_SERVICE_PORT AI_TASK_PROCESSOR_METRICS_PORT REDIS_PORT REDIS_HOST
POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB PGHOST PGPASSWORD DATABASE_HOST KAFKA_BROKERS KAFKA_HEAP_OPTS SMTP_HOST
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION S3_ACL OPENAI_ORG_ID OPENAI_API_BASE ANTHROPIC_API_KEY
COMPOSE_PROJECT_NAME COMPOSE_FILE DOCKER_HOST PYTHONPATH PYTHONUNBUFFERED VIRTUAL_ENV PIP_INDEX_URL UV_CACHE_DIR
CI GITHUB_TOKEN GITHUB_REF_NAME MAIL SSH_AUTH_SOCK GPG_KEY PYTHON_VERSION PYTHON_SHA256 INVOCATION_ID JOURNAL_STREAM
NODE_ENV NEXT_PUBLIC_API_URL MONGODB_URI RECAPTCHA_SECRET ORY_SDK_URL ORY_ACCESS_TOKEN WIKIDATA_LANGUAGE
"""


def test_a_variable_of_others_is_not() -> None:
    assert misspelled(ORDINARY.split(), KNOWN) == {}


def test_no_setting_is_taken_for_another() -> None:
    """A daemon knows the core's names and those of its own components: those of others must not be near them."""
    of_others = KNOWN - {variable.name for variable in variables(())}
    others = {name: KNOWN - {name, f"{name}_FILE", name.removesuffix("_FILE")} for name in of_others}
    assert [(name, found) for name in of_others if (found := misspelled([name], others[name]))] == []


def test_the_nearest_name() -> None:
    assert nearest("doktor", ["run", "doctor", "drain"]) == "doctor"
    assert nearest("x", ["run", "doctor"]) is None
