"""The price table: what calls cost, and every mistake in its file at once."""

from pathlib import Path

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.reading import load_group
from ai_task_processor.models.task import Usage
from ai_task_processor.providers.prices import Prices
from ai_task_processor.providers.settings import ModelSettings
from tests.helpers import without_origin

TABLE = """
[models."gpt-4.1-mini"]
prompt = 0.40
cached = 0.10
completion = 1.60
[models.plain]
prompt = 2
completion = 4
[models."text-embedding-3-small"]
prompt = 0.02
"""


MISTAKEN = """
currency = 3
extra = 1
[models.a]
prompt = nan
[models."b.c"] # of which there is one
prompt = -1
cached = "1"
completion = true
foo = 1
[models.d]
completion = inf
"""


def load(file: Path, text: str) -> Prices:
    file.write_text(text)
    prices = load_group(ModelSettings, {"MODEL_PRICES": str(file)}, None).prices
    assert prices is not None
    return prices


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("gpt-4.1-mini", Usage(1_000_000), 0.4),
        ("gpt-4.1-mini", Usage(1_000_000, 500_000, 250_000), 0.3 + 0.025 + 0.8),
        ("plain", Usage(1_000, 1_000, 1_000), 0.006),
        ("text-embedding-3-small", Usage(1_000_000), 0.02),
        ("text-embedding-3-small", Usage(10, 1), None),
        ("gpt-9", Usage(1), None),
    ],
)
def test_a_cost(tmp_path: Path, model: str, usage: Usage, cost: float | None) -> None:
    """None for a model without a price, and without one for completions when it completes."""
    prices = load(tmp_path / "prices.toml", TABLE)
    assert prices.currency == "USD"
    assert prices.cost(model, usage) == (None if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            MISTAKEN,
            [
                "2: currency: must be a valid string",
                "3: extra is no key of a price table: remove or correct it",
                "5: models.a.prompt: must be a finite number",
                "7: models.b.c.prompt: must be greater than or equal to 0",
                "8: models.b.c.cached: must be a valid number",
                "9: models.b.c.completion: must be a valid number",
                "10: models.b.c.foo is no key of a price table: remove or correct it",
                "11: models.d.prompt is missing: add it",
                "12: models.d.completion: must be a finite number",
            ],
        ),
        ("models = {a = 5}", ["1: models.a must be a table"]),
        ("", ["1: models is missing: add it"]),
        ("[models]", ["1: models: Dictionary should have at least 1 item"]),
        ('currency = "U S"\n[models.a]\nprompt = 1', ["1: currency: String should match pattern"]),
        ("[", [" is not valid TOML"]),
    ],
)
def test_all_mistakes_at_once(tmp_path: Path, text: str, problems: list[str]) -> None:
    """Each with the file, the line and the key, beside those in other settings."""
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_group(ModelSettings, {"MODEL_PRICES": str(file), "MAX_RETRIES": "x"}, None)
    first, *found = sorted(raised.value.problems, key=lambda line: not line.startswith("MAX_RETRIES"))
    assert first.startswith("MAX_RETRIES")
    assert len(found) == len(problems)
    for line, start in zip(found, problems, strict=True):
        assert line.removeprefix(f"MODEL_PRICES: {file}").removeprefix(":").startswith(start)


@pytest.mark.parametrize("path", [".", "no-such-file", "-----BEGIN " + "x" * 5_000])
def test_a_path_that_names_no_file_is_not_shown_at_length(path: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_group(ModelSettings, {"MODEL_PRICES": path}, None)
    (line,) = raised.value.problems
    assert without_origin(line) == "MODEL_PRICES names no file that can be read: correct the path"
    assert "BEGIN" not in line
