"""Results in the upstream's shape: whatever the model answers, no callback refuses what is reported."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_task_processor.core.errors import TaskError
from ai_task_processor.processors.chat import aletheia
from ai_task_processor.processors.chat.aletheia import shapes
from ai_task_processor.processors.chat.aletheia.settings import AREAS
from ai_task_processor.processors.chat.aletheia.wikidata import Entity
from ai_task_processor.sandbox import claims, verifications
from ai_task_processor.sandbox.tasks import TaskStore

ENTITY = Entity("Q1", "Ana", "a person", ["A."], ["Q5"], 3, 4)


def person(name: str, **changes: object) -> dict[str, Any]:
    return {"name": name, "mentioned_as": name, "confidence": 0.5, "context": "", **changes}


def topic(name: str) -> dict[str, Any]:
    return {"name": name, "confidence": 1, "context": ""}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Saúde", "saude"),
        ("Meio Ambiente", "meio-ambiente"),
        ("  Edson D'Ávila", "EDSON D AVILA"),
        ("Øresund", "Oresund"),
        ("Straße", "strasse"),
        ("S.A.", "SA"),
        ("Sa\u0301", "Sá"),
    ],
)
def test_names_that_the_upstream_stores_as_one(one: str, other: str) -> None:
    assert shapes.slug(one) == shapes.slug(other)


def test_a_name_is_tidied() -> None:
    assert shapes.tidy("\x00 Ana\n\tSouza \ud800") == "Ana Souza"
    assert shapes.tidy("نمی‌خواهم") == "نمی‌خواهم", "joiners belong to the name"


def test_people() -> None:
    """Doubles go by name before the look-up and by id after it; each has all fields."""
    mentions = shapes.mentions({"personalities": [person(name) for name in ("Ana", " ANA ", "Bia", "???", "Ana B.")]})
    assert [each["name"] for each in mentions] == ["Ana", "Bia", "Ana B."]
    ids = {"Ana": "Q1", "Bia": "Q2", "Ana B.": "Q1"}
    people = [shapes.with_entity(each, Entity(ids[each["name"]], "L", "D", [], [], 0, 0)) for each in mentions]
    kept = shapes.personalities(people)["personalities"]
    assert [each["wikidata"]["id"] for each in kept] == ["Q1", "Q2"]
    wikidata = {"id": "Q1", "url": "https://www.wikidata.org/wiki/Q1", "label": "L", "description": "D", "aliases": []}
    assert kept[0] == person("Ana") | {"wikidata": wikidata}
    unknown = shapes.personalities([shapes.unknown(each) for each in mentions])["personalities"]
    assert [each["wikidata"]["id"] for each in unknown] == [None, None, None]


def test_names_that_are_none_are_no_empty_success() -> None:
    assert shapes.mentions({"personalities": []}) == []
    with pytest.raises(TaskError) as caught:
        shapes.mentions({"personalities": [person(" ")]})
    assert caught.value.code == "invalid_output"


def test_a_long_list_of_people_stays_below_the_limit() -> None:
    """Aliases go first, then contexts; nobody is dropped. What is still too large is no result."""
    entity = [Entity(f"Q{n}", "L" * 50, "D", ["a" * 40] * 20, [], 0, 0) for n in range(1, 3_000)]
    for count, aliases, contexts in ((20, True, True), (120, False, True), (250, False, False)):
        people = [shapes.with_entity(person(f"P {n}", context="c" * 400), entity[n]) for n in range(count)]
        kept = shapes.personalities(people)["personalities"]
        assert len(kept) == count
        assert (bool(kept[0]["wikidata"]["aliases"]), bool(kept[0]["context"])) == (aliases, contexts)
        shapes.checked(aletheia.IDENTIFYING_DATA, {"personalities": kept})
    people = [shapes.with_entity(person(f"P {n}"), entity[n]) for n in range(2_000)]
    with pytest.raises(TaskError) as caught:
        shapes.checked(aletheia.IDENTIFYING_DATA, shapes.personalities(people))
    assert caught.value.code == "result_too_large"


def test_topics() -> None:
    names = shapes.named_topics({"topics": [topic(name) for name in ("Saúde", "SAUDE", "Vacina", "")]})
    assert names == ["Saúde", "Vacina"]
    assert shapes.topics({"Saúde": "Q1", "Vacina": None, "Bem-estar": "Q1"}) == [
        {"name": "Saúde", "wikidataId": "Q1", "language": "pt"},
        {"name": "Vacina", "wikidataId": None, "language": "pt"},
    ]
    assert len(shapes.named_topics({"topics": [topic(f"t{n}") for n in range(50)]})) == shapes.MAX_TOPICS
    for empty in ([], [topic("  ")], [topic("x" * 300)]):
        with pytest.raises(TaskError) as caught:
            shapes.named_topics({"topics": empty})
        assert caught.value.code == "no_topics"


@pytest.mark.parametrize(
    ("task_type", "result"),
    [
        (aletheia.IDENTIFYING_DATA, []),
        (aletheia.IDENTIFYING_DATA, {"personalities": None}),
        (aletheia.IDENTIFYING_DATA, {"personalities": [{"name": 5}]}),
        (aletheia.IDENTIFYING_DATA, {"personalities": [{"name": "Ana"}, {"name": "ana"}]}),
        (aletheia.IDENTIFYING_DATA, {"personalities": [shapes.with_entity(person(n), ENTITY) for n in "ab"]}),
        (aletheia.DEFINING_TOPICS, []),
        (aletheia.DEFINING_TOPICS, {"topics": []}),
        (aletheia.DEFINING_TOPICS, ["Saúde"]),
        (aletheia.DEFINING_TOPICS, [{"name": ""}]),
        (aletheia.DEFINING_TOPICS, [{"name": "Saúde"}, {"name": "saude"}]),
        (aletheia.DEFINING_IMPACT_AREA, {}),
        (aletheia.DEFINING_IMPACT_AREA, {"name": None}),
        (aletheia.DEFINING_IMPACT_AREA, {"name": "saúde"}),
        (aletheia.DEFINING_SEVERITY, {"severity": "high"}),
        (aletheia.DEFINING_SEVERITY, {"severity": "medium_2 because"}),
        (aletheia.DEFINING_SEVERITY, "medium_2"),
    ],
)
def test_what_breaks_a_rule_is_never_reported(task_type: str, result: object) -> None:
    areas = ("Saúde",) if task_type == aletheia.DEFINING_IMPACT_AREA else ()
    with pytest.raises(TaskError) as caught:
        shapes.checked(task_type, result, areas)
    assert caught.value.code == "invalid_output"


NAMES = st.text(max_size=8) | st.sampled_from(["Ana", "ána", "ANA ", "Bia", "ß", "ss", "ø", "O", "É", "e\u0301", "½"])
Named = list[tuple[str, str | None]]
IDS = st.sampled_from(["Q1", "Q2", "Q3", None])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, IDS), max_size=6), st.lists(st.tuples(NAMES, IDS), max_size=6))
def test_no_callback_refuses_a_result(
    people: list[tuple[str, str | None]], topics: list[tuple[str, str | None]]
) -> None:
    """Against the sandbox's callbacks, which have their own idea of a slug, with nobody known before."""
    results: list[tuple[str, str, object]] = []
    with suppress(TaskError):
        mentions = shapes.mentions({"personalities": [person(name) for name, _ in people]})
        found = [(each, id_) for each, (_, id_) in zip(mentions, people, strict=False)]
        kept = [shapes.with_entity(each, Entity(id_, "", "", [], [], 0, 0)) for each, id_ in found if id_]
        results.append(("identifiedData", aletheia.IDENTIFYING_DATA, shapes.personalities(kept)))
        unknown = [shapes.unknown(each) for each in mentions]
        results.append(("identifiedData", aletheia.IDENTIFYING_DATA, shapes.personalities(unknown)))
    with suppress(TaskError):
        named = shapes.named_topics({"topics": [topic(name) for name, _ in topics]})
        ids = {name: id_ for name, (_, id_) in zip(named, topics, strict=False)}
        results.append(("topics", aletheia.DEFINING_TOPICS, shapes.topics(ids)))
    for field, task_type, result in results:
        callbacks = verifications.Verifications(TaskStore())
        callbacks._accepted(field, json.loads(json.dumps(shapes.checked(task_type, result))))


def test_the_lists_are_those_of_the_upstream() -> None:
    """Our lists and the sandbox's were written down separately."""
    assert shapes.SEVERITIES == claims.SEVERITIES
    assert tuple(part.strip() for part in AREAS.split(",")) == verifications.AREAS
