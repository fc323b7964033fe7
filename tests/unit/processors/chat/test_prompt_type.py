"""Prompt types in TOML: what a file says, and every mistake at once with its line."""

from pathlib import Path

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.processors.chat.prompt_type import load_prompt_types

SCHEMA = '[schema]\ntype = "object"\nrequired = ["level"]\nproperties.level.enum = ["high", "low"]\n'
HEAD = 'type = "rate"\ninstructions = "Rate it."\n'


def problems(*paths: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load_prompt_types(paths)
    return list(raised.value.problems)


def test_files_and_folders(tmp_path: Path) -> None:
    """Every TOML file of a folder; a result is a field of the answer, or all of it."""
    folder = tmp_path / "types"
    folder.mkdir()
    (folder / "rate.toml").write_text(HEAD + 'result = "level"\n' + SCHEMA)
    (folder / "notes.txt").write_text("not a type")
    (single := tmp_path / "plain.toml").write_text('type = "plain"\ninstructions = "Answer {{ who? }}."\n')
    found = load_prompt_types([folder, single])
    assert sorted(found) == ["plain", "rate"]
    assert found["rate"].shaped({"level": "low"}) == "low"
    assert found["plain"].template.render({"who": "me"}) == "Answer me."
    assert load_prompt_types([]) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type = \n", " is not valid TOML: Invalid value (at line 1, column 8)"),
        ('type = "rate"\n', ":1: instructions is missing: add it"),
        (HEAD + "modell = 1\n", ":3: modell is no key of a prompt type: remove or correct it"),
        (HEAD + "\ntemperature = 3\n", ":4: temperature: must be less than or equal to 2"),
        ('type = "a b"\ninstructions = "x"\n', ":1: type: String should match pattern "),
        ('type = "rate"\ninstructions = "{{ 1 }}"\n', ":2: instructions: {{ 1 }} is no name of a field: "),
        (HEAD + 'result = "level"\n', ":3: result needs a schema: "),
        (HEAD + 'result = "x"\n' + SCHEMA, ":3: result names 'x', which the schema does not require"),
        (HEAD + '[schema]\ntype = "objekt"\n', ":3: schema is no JSON Schema: $.type: 'objekt' "),
    ],
)
def test_a_mistake_has_its_line_and_its_remedy(tmp_path: Path, text: str, expected: str) -> None:
    (file := tmp_path / "x.toml").write_text(text)
    (problem,) = problems(file)
    assert problem.startswith(f"TASK_TYPES: {file}{expected}")


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(HEAD)
    (tmp_path / "b.toml").write_text(HEAD)
    (tmp_path / "c.toml").write_bytes(b'type = "\xff"')
    found = problems(tmp_path, tmp_path / "none")
    assert [line.removeprefix(f"TASK_TYPES: {tmp_path}/") for line in found] == [
        f"b.toml: type 'rate' is in {tmp_path}/a.toml, too: rename one",
        "c.toml is not UTF-8: save it as UTF-8",
        "none is no file or folder: correct the path",
    ]
