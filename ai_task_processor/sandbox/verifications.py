"""Requests to verify a claim, as the public upstream treats them: a chain of tasks and the rules of their callbacks.

A finished task fills a field of its request, and inside that PATCH the tasks of the fields that may follow are made:
``embedding``, ``identifiedData``, ``topics`` and ``impactArea`` together, ``severity``; then a person takes over.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ai_task_processor.sandbox.answers import Response, nest_error
from ai_task_processor.sandbox.claims import SEVERITIES, Claim, claim_in
from ai_task_processor.sandbox.tasks import StoredTask, TaskStore

MODEL: Final = "o3"
IN_TRIAGE: Final = "In Triage"
#: 400s of one field after which a person must look at the request
MOST_REFUSALS: Final = 3
AREAS: Final = (
    "Segurança Pública", "Saúde", "Política", "Corrupção e Transparência", "Justiça e Direitos Humanos", "Economia",
    "Meio Ambiente", "Educação", "Relações Internacionais", "Infraestrutura e Mobilidade", "Ciência e Tecnologia",
    "Cultura e Esporte", "Outros",
)  # fmt: skip
#: type of the task and end of its route, by field
_TASKS: Final[Mapping[str, tuple[str, str]]] = {
    "embedding": ("text_embedding", "embedding"),
    "identifiedData": ("identifying_data", "identifying_data"),
    "topics": ("defining_topics", "defining_topics"),
    "impactArea": ("defining_impact_area", "defining_impact_area"),
    "severity": ("defining_severity", "defining_severity"),
}
#: the fields that must be there before a field's task is made
_NEEDS: Final[Mapping[str, Sequence[str]]] = {
    "embedding": (),
    "identifiedData": ("embedding",),
    "topics": ("identifiedData",),
    "impactArea": ("identifiedData",),
    "severity": ("topics", "impactArea"),
}


class Refused(Exception):
    """A rule of a callback is broken (400), or its code raises (500)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Verification:
    """One request. ``fields``: what was stored, ``tasks``: ids by field, ``refusals``: 400s by field."""

    id: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    status: str = "Pre Triage"

    def wrong(self) -> Sequence[str]:
        """The fields that are missing, or are not what is true of the numbered claim in the text."""
        claim = claim_in(self.text)
        assert claim is not None  # noqa: S101 - for requests about numbered claims only
        people, topics = self.fields.get("identifiedData", ()), self.fields.get("topics", ())
        found = {
            "identifiedData": [(each["name"], each["wikidata"]["id"]) for each in people],
            "topics": [(each["name"], each["wikidataId"], each["language"]) for each in topics],
            "impactArea": self.fields.get("impactArea"),
            "severity": self.fields.get("severity"),
        }
        right = {
            "identifiedData": [(each.name, each.id) for each in claim.people],
            "topics": [(each.name, each.id, "pt") for each in claim.topics],
            "impactArea": claim.area(AREAS),
            "severity": claim.severity,
        }
        return [name for name in _TASKS if name not in self.fields or found.get(name) != right.get(name)]


class Verifications:
    """All requests, and the people and topics that their callbacks have created, by slug."""

    def __init__(self, store: TaskStore) -> None:
        self.requests: dict[str, Verification] = {}
        #: answers that were not 200
        self.refused: list[str] = []
        self.people: dict[str, str | None] = {}
        self.topics: dict[str, str | None] = {}
        #: whether tasks of areas bring the closed list
        self.with_options = True
        self.embedding_model = "text-embedding-3-small"
        self._store = store

    def add(self, text: str) -> str:
        """A request with its first task; returns the id of the request."""
        request = Verification(f"request-{len(self.requests)}", text)
        self.requests[request.id] = request
        self._advance(request)
        return request.id

    def add_claims(self, count: int) -> list[str]:
        """Requests about the next numbered claims; returns their ids."""
        made = len(self.requests)
        return [self.add(Claim.numbered(made + n).text) for n in range(count)]

    def callback(self, task: StoredTask, result: object) -> Response | None:
        """Run the callback of a task. None when it accepts the result, or the task belongs to no request."""
        params = task.document.get("callbackParams") if self.requests else None
        if not isinstance(params, dict):
            return None
        request, name = self.requests.get(str(params.get("targetId"))), str(params.get("field"))
        if request is None or name not in _TASKS:
            return None
        fingerprint = hashlib.sha256(json.dumps(result).encode()).hexdigest()
        if request.fingerprints.get(name) == fingerprint:
            return None
        try:
            request.fields[name] = self._accepted(name, result)
        except Refused as error:
            self.refused.append(f"{error.status} {name}: {error}")
            if error.status == 400:
                request.refusals[name] += 1
                if request.refusals[name] >= MOST_REFUSALS:
                    request.status = "Manual Review Required"
            return nest_error(error.status, str(error))
        request.fingerprints[name] = fingerprint
        self._advance(request)
        return None

    def _advance(self, request: Verification) -> None:
        """Make the tasks of the fields that may follow."""
        for name, needs in _NEEDS.items():
            if name not in request.tasks and all(each in request.fields for each in needs):
                task_type, route = _TASKS[name]
                request.tasks[name] = self._store.add(
                    type=task_type,
                    content={"text": request.text, "model": MODEL, **self._further(request, name)},
                    raw={
                        "callbackRoute": f"verification_update_{route}",
                        "callbackParams": {"targetId": request.id, "field": name},
                    },
                )
        if "severity" in request.fields:
            request.status = IN_TRIAGE

    def _further(self, request: Verification, name: str) -> dict[str, object]:
        if name == "embedding":
            return {"model": self.embedding_model}
        if name == "impactArea":
            return {"options": list(AREAS)} if self.with_options else {}
        if name != "severity":
            return {}
        area, people = request.fields["impactArea"], request.fields["identifiedData"]
        named = [{"name": each["name"], "wikidataId": each["wikidata"]["id"]} for each in people]
        topics = [{key: each[key] for key in ("name", "language", "wikidataId")} for each in request.fields["topics"]]
        return {
            "impactArea": {"name": area, "language": "pt", "wikidataId": None},
            "topics": topics,
            "personalities": named,
        }

    # --- the callbacks: what each accepts, and what it stores

    def _accepted(self, name: str, result: object) -> object:
        rules: Mapping[str, Callable[[Any], object]] = {
            "embedding": _embedding,
            "identifiedData": self._identified_data,
            "topics": self._topics,
            "impactArea": _impact_area,
            "severity": _severity,
        }
        return rules[name](result)

    def _identified_data(self, result: Any) -> object:
        people = result.get("personalities") if isinstance(result, dict) else None
        if not isinstance(people, list):
            return []  # quietly nobody
        for each in people:
            if not isinstance(each, dict) or not isinstance(each.get("name"), str):
                raise Refused(500, "name.toLowerCase is not a function")
        _create(self.people, people, lambda each: (each.get("wikidata") or {}).get("id"))
        return people

    def _topics(self, result: Any) -> object:
        if not isinstance(result, list) or not result:
            raise Refused(400, "topics must be a list that is not empty")
        for each in result:
            if not isinstance(each, dict) or not isinstance(each.get("name"), str) or not each["name"]:
                raise Refused(500, "slugify: string argument expected")
        _create(self.topics, result, lambda each: each.get("wikidataId"))
        return result


def _create(known: dict[str, str | None], entries: Sequence[Any], id_of: Callable[[Any], str | None]) -> None:
    """Store new ones by slug. The same new one twice at the same moment breaks a unique index, once."""
    ids, fresh = set(known.values()) - {None}, list[tuple[str, str | None]]()
    for each in entries:
        if slug(each["name"]) not in known and id_of(each) not in ids:
            fresh.append((slug(each["name"]), id_of(each)))
    doubled = len({name for name, _ in fresh}) < len(fresh)
    known.update(fresh)
    if doubled:
        raise Refused(500, "E11000 duplicate key error")


def _embedding(result: Any) -> object:
    if not isinstance(result, list) or not result or not all(type(value) in (int, float) for value in result):
        raise Refused(400, "embedding must be an array of numbers")
    return len(result)


def _impact_area(result: Any) -> object:
    name = result.get("name") if isinstance(result, dict) else result
    if isinstance(result, dict) and name is not None and not isinstance(name, str):
        raise Refused(500, "name.toLowerCase is not a function")
    by_slug = {slug(area): area for area in AREAS}
    return by_slug.get(slug(name) if isinstance(name, str) else "", "Outros")


def _severity(result: Any) -> object:
    level = result.get("severity") if isinstance(result, dict) else result
    if level not in SEVERITIES:
        raise Refused(400, "severity must be one of the ten levels")
    return level


def slug(name: str) -> str:
    """Lower case, no accents, hyphens."""
    plain = unicodedata.normalize("NFKD", name.lower())
    kept = "".join(char if char.isalnum() else "-" for char in plain if not unicodedata.combining(char))
    return "-".join(filter(None, kept.split("-")))
