"""The sandbox's chain: which task follows which, and what each callback accepts."""

import json
from typing import Any

import pytest

from ai_task_processor.sandbox.answers import parsed
from ai_task_processor.sandbox.chat import ChatApi
from ai_task_processor.sandbox.claims import PEOPLE, TOPICS, Claim, claim_in
from ai_task_processor.sandbox.task_api import TaskApi
from ai_task_processor.sandbox.tasks import StoredTask, TaskStore
from ai_task_processor.sandbox.verifications import AREAS, Verification, Verifications
from ai_task_processor.sandbox.wikidata import WikidataApi

ANA = {"name": "Ana", "wikidata": {"id": "Q1"}}
GOOD: dict[str, object] = {
    "embedding": [0.5, 1],
    "identifiedData": {"personalities": [ANA]},
    "topics": [{"name": "Saúde", "wikidataId": None, "language": "pt"}],
    "impactArea": {"name": "saude"},
    "severity": {"severity": "high_1"},
}
ORDER = ("embedding", "identifiedData", "topics", "impactArea", "severity")


class World:
    """One request, and PATCHes of its tasks."""

    def __init__(self) -> None:
        self.store = TaskStore()
        self.all = Verifications(self.store)
        self.api = TaskApi(self.store, lambda _: None, self.all.callback)
        self.request: Verification = self.all.requests[self.all.add("x")]

    def patch(self, field: str, result: object) -> int:
        body = json.dumps({"state": "succeeded", "result": result}).encode()
        return self.api.patch(self.request.tasks[field], body).status

    def task(self, field: str) -> StoredTask:
        return self.store[self.request.tasks[field]]

    def upto(self, field: str) -> "World":
        for name in ORDER[: ORDER.index(field)]:
            assert self.patch(name, GOOD[name]) == 200
        return self


def test_the_chain() -> None:
    """Each field is followed by the next; severity by a person."""
    world = World()
    for number, field in enumerate(ORDER, 1):
        assert list(world.request.tasks) == list(ORDER[: {2: 2, 3: 4, 4: 4}.get(number, number)])
        assert world.patch(field, GOOD[field]) == 200
    assert world.request.status == "In Triage"
    content: Any = world.task("severity").document["content"]
    assert content["impactArea"] == {"name": "Saúde", "language": "pt", "wikidataId": None}
    assert content["personalities"] == [{"name": "Ana", "wikidataId": "Q1"}]
    assert world.task("topics").document["callbackRoute"] == "verification_update_defining_topics"


@pytest.mark.parametrize(
    ("field", "result", "status"),
    [
        ("embedding", [], 400),
        ("embedding", {"embedding": [1]}, 400),
        ("embedding", [1, "2"], 400),
        ("identifiedData", {"personalities": [{"name": 5}]}, 500),
        ("identifiedData", {"personalities": ["Ana"]}, 500),
        ("identifiedData", {"personalities": []}, 200),
        ("identifiedData", [ANA], 200),
        ("topics", [], 400),
        ("topics", {}, 400),
        ("topics", ["Saúde"], 500),
        ("topics", [{"name": ""}], 500),
        ("impactArea", {"name": 5}, 500),
        ("impactArea", {}, 200),
        ("impactArea", None, 200),
        ("impactArea", "Saúde", 200),
        ("severity", {"severity": "high"}, 400),
        ("severity", {}, 400),
        ("severity", "low_1", 200),
    ],
)
def test_what_a_callback_accepts(field: str, result: object, status: int) -> None:
    """A refusal comes after the state was saved; then nothing follows."""
    world = World().upto(field)
    made = len(world.store)
    assert world.patch(field, result) == status
    assert world.task(field).state == "succeeded"
    if status != 200:
        assert len(world.store) == made
        assert field not in world.request.fields


def test_three_refusals_end_a_request() -> None:
    world = World()
    assert [world.patch("embedding", []) for _ in range(3)] == [400] * 3
    assert world.request.status == "Manual Review Required"


@pytest.mark.parametrize(
    ("field", "result"),
    [
        ("identifiedData", {"personalities": [ANA, {"name": "ANA", "wikidata": {"id": "Q2"}}]}),
        ("topics", [{"name": "Saúde"}, {"name": "saude"}]),
    ],
)
def test_the_same_new_one_twice_is_refused_once(field: str, result: object) -> None:
    world = World().upto(field)
    assert [world.patch(field, result), world.patch(field, result)] == [500, 200]


def test_the_same_result_does_nothing() -> None:
    world = World()
    assert [world.patch("embedding", [1]), world.patch("embedding", [1])] == [200, 200]
    assert len(world.store) == 2


def test_an_area_that_is_none_is_another() -> None:
    world = World().upto("impactArea")
    world.patch("impactArea", {"name": "Astrologia"})
    assert world.request.fields["impactArea"] == "Outros"


def test_the_model_knows_what_is_true_of_a_claim() -> None:
    """By its number, wherever it is quoted; schemas of other questions are answered as usual."""
    claim = Claim.numbered(6)
    assert claim_in(f"Rate it.\n{claim.text}") == claim
    assert claim_in("Alegação sem número") is None
    chat = ChatApi.seeded(0)
    schema = {"type": "object", "properties": {"severity": {"enum": ["low_1"]}}, "required": ["severity"]}
    for text, level in ((claim.text, claim.severity), ("x", "low_1")):
        body = {"messages": [{"role": "user", "content": text}]}
        shape = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
        answered: Any = parsed(bytes(chat.completion(json.dumps(body | shape).encode()).body))  # type: ignore[arg-type]
        assert json.loads(answered["choices"][0]["message"]["content"]) == {"severity": level}
    assert any(not Claim.numbered(n).people for n in range(10))
    assert claim.area(AREAS) == AREAS[6]


def test_wikidata_finds_what_it_has() -> None:
    api = WikidataApi()

    def asked(**query: str) -> Any:
        return parsed(bytes(api.answer(query).body))  # type: ignore[arg-type]

    found = asked(action="wbsearchentities", search="bruno lima", language="en", limit="5")
    assert [hit["id"] for hit in found["search"]] == ["Q900101", "Q900002"]
    assert asked(action="wbsearchentities", search="Nobody", language="en")["search"] == []
    entities = asked(action="wbgetentities", ids=f"{PEOPLE[0].id}|Q7")["entities"]
    assert len(entities[PEOPLE[0].id]["sitelinks"]) == PEOPLE[0].sitelinks
    assert "missing" in entities["Q7"]
    assert asked(action="query")["error"]["code"] == "badvalue"
    assert api.requests[f"wbgetentities {PEOPLE[0].id}|Q7"] == 1
    assert TOPICS[0].id in api.entities
