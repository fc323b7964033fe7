"""What is written about profiles is true: the schema and the example."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from ai_task_processor.core.plugins import BUILT_IN, find
from ai_task_processor.core.profiles import FOLDER
from docs.profiles import SCHEMA

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/profiles.md").read_text("utf-8")
EXAMPLE = re.findall(r"<!-- example: profile -->\n```toml\n(.*?)```", TEXT, flags=re.DOTALL)[0]
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))


@pytest.mark.parametrize("name", BUILT_IN["sources"])
def test_a_built_in_profile_fits_the_schema_and_describes_itself(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text("utf-8")
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))] == []
    assert len(find("sources", name).load().profile.description) < 120


def test_the_example_is_a_profile(tmp_path: Path) -> None:
    """It is valid, for the schema too, which refuses a key that is misspelt."""
    (file := tmp_path / "helpdesk.toml").write_text(EXAMPLE)
    assert find("sources", str(file)).load().profile.types == ("summarize",)
    assert VALIDATOR.is_valid(tomllib.loads(EXAMPLE))
    assert not VALIDATOR.is_valid(tomllib.loads(EXAMPLE.replace("path =", "pth =", 1)))
    assert not VALIDATOR.is_valid(tomllib.loads(EXAMPLE.replace('kind = "rest"', 'kind = "best"')))
