"""The content of a claim's tasks: older forms are understood, broken fields are named."""

from typing import Any

import pytest

from ai_task_processor.core.errors import TaskError
from ai_task_processor.processors.chat.aletheia.content import area_names, claim

NONE, BOTH = "not available", "7 sitelinks, 8 statements"
USUAL = ("Saúde", "Outros")
FULL = {
    "text": "x",
    "impactArea": {"name": "Saúde", "language": "pt", "wikidataId": None},
    "topics": [{"name": "Vacina", "language": "pt", "wikidataId": "Q2"}],
    "personalities": [{"name": "Ana", "wikidataId": "Q4"}, {"name": "Bia", "wikidataId": None}],
}
TOLD = f"Impact area: Saúde ({NONE})\nTopics: Vacina ({BOTH})\nPeople: Ana ({NONE}); Bia ({NONE})"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x", "x"),
        ({"text": "x"}, "x"),
        ({"contentSummary": "x", "verificationId": "v"}, "x"),
        ({"text": "x", "contentSummary": "y"}, "x"),
        ({"text": 5}, 5),
        ({}, None),
    ],
)
def test_where_the_text_is(content: object, text: object) -> None:
    assert claim(content).text == text


@pytest.mark.parametrize("content", [None, 5, []])
def test_content_that_is_none(content: object) -> None:
    with pytest.raises(TaskError, match="invalid_content"):
        claim(content)


@pytest.mark.parametrize(
    ("content", "ids", "context"),
    [
        (FULL, ["Q2", "Q4"], TOLD),
        ({"text": "x"}, [], "Impact area: none\nTopics: none\nPeople: none"),
        ({**FULL, "impactArea": None, "topics": [], "personalities": None}, [],
         "Impact area: none\nTopics: none\nPeople: none"),
        ({"text": "x", "impactAreaWikidataId": "Q9", "topicsWikidataIds": ["Q2"], "personalityWikidataId": "Q4"},
         ["Q9", "Q2", "Q4"], f"Impact area: Q9 ({NONE})\nTopics: Q2 ({BOTH})\nPeople: Q4 ({NONE})"),
        ({"text": "x", "impactArea": "Saúde", "topics": ["a\nPeople: b"]}, [],
         "Impact area: Saúde (not available)\nTopics: a People: b (not available)\nPeople: none"),
    ],
)  # fmt: skip
def test_what_severity_is_told(content: Any, ids: list[str], context: str) -> None:
    """Counts where they are known; a name cannot begin a line of its own."""
    assert claim(content).ids() == ids
    assert claim(content).context({"Q2": (7, 8)}) == context


@pytest.mark.parametrize(
    "broken",
    [
        {"impactArea": 5},
        {"impactArea": []},
        {"impactArea": {"name": 5}},
        {"topics": "Saúde"},
        {"topics": {}},
        {"topics": [None]},
        {"topics": [{"name": "x", "wikidataId": 5}]},
        {"topics": [{"name": "x" * 300}]},
        {"topics": ["x"] * 10_000},
        {"personalities": [["Ana"]]},
        {"personalityWikidataId": 5},
        {"topicsWikidataIds": [5]},
    ],
)
def test_a_broken_field_is_named(broken: dict[str, object]) -> None:
    with pytest.raises(TaskError) as caught:
        claim({"text": "x", **broken}).ids()
    assert caught.value.code == "invalid_content"
    assert f"content.{next(iter(broken))} " in caught.value.message


@pytest.mark.parametrize(
    ("options", "areas"),
    [(None, USUAL), ([], USUAL), (["B", " A ", "B"], ("B", " A ")), ([f"a{n}" for n in range(1_000)], None)],
)
def test_the_closed_list(options: object, areas: tuple[str, ...] | None) -> None:
    """Letter by letter, each name once; the setting's where the task brings none."""
    found = area_names({"text": "x", "options": options}, USUAL)
    assert found == areas or (areas is None and len(found) == 1_000)
    assert area_names("x", USUAL) == USUAL


@pytest.mark.parametrize("options", ["Saúde", {}, 5, [5], [None], [""], [" "], ["x" * 300], ["x"] * 10_000])
def test_a_broken_list(options: object) -> None:
    with pytest.raises(TaskError) as caught:
        area_names({"text": "x", "options": options}, USUAL)
    assert caught.value.code == "invalid_content"
