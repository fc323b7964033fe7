"""``.env.example`` is true: it names every variable, shows the real defaults and works as it stands."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from dotenv import dotenv_values

from ai_task_processor.cli.main import main
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import built_in_groups, load_selected
from ai_task_processor.core.variables import Variable, variables
from ai_task_processor.providers.settings import ModelSettings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
LINE = re.compile(r"^(?P<hidden># )?(?P<name>[A-Z0-9_]+)=(?P<text>.*)$", re.MULTILINE)
LINES = list(LINE.finditer(EXAMPLE.read_text("utf-8")))
ALL_SET = LINE.sub(r"\g<name>=\g<text>", EXAMPLE.read_text("utf-8"))
TEXTS = dotenv_values(stream=io.StringIO(ALL_SET), interpolate=False)
SET = {line["name"]: TEXTS[line["name"]] or "" for line in LINES if not line["hidden"]}
SHOWN = {line["name"]: TEXTS[line["name"]] for line in LINES if line["hidden"]}


def test_it_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    """``ai-task-processor config --env > .env.example`` writes it: texts are changed where settings are declared."""
    assert main(["config", "--env"]) == 0
    assert capsys.readouterr().out == EXAMPLE.read_text("utf-8")


def test_it_names_every_variable_once_and_no_other() -> None:
    """The file and the settings know the same variables, in both directions."""
    assert sorted(line["name"] for line in LINES) == sorted(variable.name for variable in variables(built_in_groups()))


def test_it_loads_as_shipped_in_mock_mode() -> None:
    """A plain copy of the file is a valid ``.env``, and mock vectors are announced."""
    settings, _ = load_selected({}, EXAMPLE)
    assert settings[ModelSettings].mode == "mock"
    assert [warning for warning in settings.warnings if "placeholder" in warning]


@pytest.mark.parametrize("variable", variables(built_in_groups()), ids=lambda variable: variable.name)
def test_a_commented_line_shows_the_default(variable: Variable) -> None:
    """What is commented out shows the default; what is set has none."""
    assert SHOWN.get(variable.name, "") == variable.default


def test_shown_defaults_change_nothing(tmp_path: Path) -> None:
    """With every comment sign removed, the file gives the same settings."""
    bare = tmp_path / ".env"
    bare.write_text(ALL_SET, "utf-8")
    (ours, selected), (theirs, same) = load_selected({}, bare), load_selected({}, EXAMPLE)
    assert (replace(ours, warnings=theirs.warnings), selected) == (theirs, same)


def test_docker_compose_reads_the_same(tmp_path: Path) -> None:
    """Every secret stands in single quotes, which Compose takes literally, and no other value has a ``$``."""
    raw = {line["name"]: line["text"] for line in LINES}
    secrets = {variable.name for variable in variables(built_in_groups()) if variable.secret}
    assert {name for name, text in raw.items() if re.fullmatch("'.*'", text)} >= secrets
    (path := tmp_path / ".env").write_text(ALL_SET, "utf-8")
    assert not [warning for warning in load_selected({}, path)[0].warnings if "$" in warning]


@pytest.mark.parametrize("name", sorted(SET.keys() - {"OPENAI_API_KEY"}))
def test_what_is_set_is_required(name: str) -> None:
    """Each uncommented line is needed: without it there is one problem, and it names the variable."""
    with pytest.raises(ConfigurationError) as caught:
        load_selected({key: text for key, text in SET.items() if key != name}, None)
    assert [problem.split()[0] for problem in caught.value.problems] == [name]


@pytest.mark.parametrize("name", [variable.name for variable in variables(built_in_groups()) if variable.secret])
def test_the_file_form_of_each_secret_is_mentioned(name: str) -> None:
    """An operator learns of ``<NAME>_FILE`` here."""
    assert f"{name}_FILE" in EXAMPLE.read_text("utf-8")
