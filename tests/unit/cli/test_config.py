"""``config``: each setting with its value and origin, no secret; a schema that fits what the settings accept."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ai_task_processor.cli.config.schema import schema
from ai_task_processor.cli.main import main
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.settings import CORE
from ai_task_processor.core.variables import variables

GIVEN = {
    "ORY_PROJECT_SLUG": "quiet-hill",
    "OAUTH2_CLIENT_ID": "client",
    "OPENAI_API_KEY": "sk-planted-key",
    "LOG_LEVEL": "debug",
}


@pytest.fixture
def _given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {variable.name for variable in variables(built_in_groups())}:
        monkeypatch.delenv(name, raising=False)
    for name, text in GIVEN.items():
        monkeypatch.setenv(name, text)
    Path("secret").write_text("planted-secret")
    lines = (
        "\nAPI_BASE_URL=https://api.example.com\nOAUTH2_CLIENT_SECRET_FILE=secret\nLOG_LEVEL=ERROR\nSMTP_FROM=a@b.c\n"
    )
    Path(".env").write_text(lines)


@pytest.mark.usefixtures("_given")
def test_each_setting_has_its_value_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    """From the environment, ``.env``, a secret file, or by default; what is not read only with ``--all``."""
    assert main(["config", "--json", "--all"]) == 0
    said = capsys.readouterr()
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(said.out)}
    expected = {
        "API_BASE_URL": ("https://api.example.com", ".env, line 2", True),
        "OAUTH2_CLIENT_SECRET": ("set", "secret (OAUTH2_CLIENT_SECRET_FILE, .env, line 3)", True),
        "OPENAI_API_KEY": ("set", "environment", True),
        "LOG_LEVEL": ("debug", "environment", True),
        "TASK_TIMEOUT": ("300", "default", True),
        "WAKE_TOKEN": ("unset", "not set", True),
        "SMTP_FROM": ("a@b.c", ".env, line 5", False),
    }
    assert {name: (rows[name]["value"], rows[name]["origin"], rows[name]["read"]) for name in expected} == expected
    assert (rows["TASK_TIMEOUT"]["unit"], rows["TASK_TIMEOUT"]["default"]) == ("seconds", "300")
    assert rows.keys() == {variable.name for variable in variables(built_in_groups())}
    assert "planted" not in said.out + said.err


@pytest.mark.usefixtures("_given")
def test_wrong_settings_are_shown_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, then every mistake, and 78. A setting of the profile has its origin."""
    monkeypatch.setenv("CONCURRENCY_LIMIT", "many")
    monkeypatch.setenv("TASK_SOURCE", "due-soon")
    assert main(["config"]) == 78
    said = capsys.readouterr()
    rows = {line.split()[0]: line.split("  ")[-1] for line in said.out.splitlines()}
    assert (rows["CONCURRENCY_LIMIT"], rows["POLLING_INTERVAL_SECONDS"]) == ("environment", "profile")
    assert "CONCURRENCY_LIMIT must be a whole number from 1 to 10000 ('many' in the environment; default 5)" in said.err


def test_the_schema_accepts_every_default_and_describes_every_setting() -> None:
    """As a number and as a text; the form of each secret that names a file is there, too."""
    found = schema([*CORE.values(), *built_in_groups()])
    jsonschema.Draft202012Validator.check_schema(found)
    known = {variable.name: variable for variable in variables(built_in_groups())}
    files = {f"{name}_FILE" for name, variable in known.items() if variable.secret}
    assert found["properties"].keys() == known.keys() | files
    jsonschema.validate({name: variable.default for name, variable in known.items() if variable.default}, found)
    assert all(each["description"] for each in found["properties"].values())
    defaults = {name: each["default"] for name, each in found["properties"].items() if "default" in each}
    jsonschema.validate(defaults, found)
    assert defaults["CONCURRENCY_LIMIT"] == 5
    assert defaults["ALLOW_INSECURE_HTTP"] is False
    assert defaults.keys() == {name for name, variable in known.items() if variable.default}
    assert found["properties"]["TASK_TIMEOUT"]["unit"] == "seconds"
    assert found["properties"]["OUTBOX_MAX_BYTES"] | {"description": ""} == {
        "type": "string", "unit": "bytes", "default": "1GiB", "description": "",
    }  # fmt: skip
