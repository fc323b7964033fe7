"""Numbered claims to be checked, what is true of them, and what Wikidata knows. All people are invented."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

HUMAN, COMPANY, NEWSPAPER, STREET = "Q5", "Q891723", "Q1153191", "Q79007"
SEVERITIES: Final = (
    "critical", "high_3", "high_2", "high_1", "medium_3", "medium_2", "medium_1", "low_3", "low_2", "low_1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """An entity of Wikidata. ``kind``: what it is an instance of."""

    id: str
    name: str
    kind: str = "Q1"
    sitelinks: int = 3
    statements: int = 7


PEOPLE: Final = (
    Known("Q900001", "Ana Souza", HUMAN, 41, 210),
    Known("Q900002", "Bruno Lima", HUMAN),
    Known("Q900003", "Carla Açaí Nogueira", HUMAN, 120, 333),
    Known("Q900004", "Moinhos Reunidos S.A.", COMPANY),
    Known("Q900005", "Folha do Planalto", NEWSPAPER),
    Known("Q900006", "Édson D'Ávila", HUMAN),
)
#: a street of the same name is found before the person
STREETS: Final = (Known("Q900101", "Bruno Lima", STREET), Known("Q900102", "Édson D'Ávila", STREET))
#: whom no encyclopedia knows
UNKNOWN: Final = "Zacarias Inventado"
TOPICS: Final = (
    Known("Q900201", "Saúde"),
    Known("Q900202", "Vacinação"),
    Known("Q900203", "Eleição"),
    Known("Q900204", "Economia"),
    Known("Q900205", "Meio ambiente"),
)
ENTITIES: Final = (*STREETS, *PEOPLE, *TOPICS)
_NUMBER: Final = re.compile(r"\bAlegação (\d{1,9})\b")


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim ``number``: who is mentioned (``people``; ``unknown``: somebody else, too), its topics and its severity."""

    number: int
    people: Sequence[Known]
    unknown: bool
    topics: Sequence[Known]
    severity: str

    @classmethod
    def numbered(cls, number: int) -> "Claim":
        """Every fifth mentions nobody."""
        chosen = dict.fromkeys((PEOPLE[number % len(PEOPLE)], PEOPLE[(number // 2) % len(PEOPLE)]))
        topics = dict.fromkeys((TOPICS[number % len(TOPICS)], TOPICS[(number // 3) % len(TOPICS)]))
        nobody = number % 5 == 4
        return cls(
            number=number,
            people=() if nobody else tuple(chosen),
            unknown=not nobody and number % 3 == 0,
            topics=tuple(topics),
            severity=SEVERITIES[number % len(SEVERITIES)],
        )

    @property
    def text(self) -> str:
        names = [each.name for each in self.people] + ([UNKNOWN] if self.unknown else [])
        who = f"{' e '.join(names)} disse" if names else "Dizem por aí"
        return f"Alegação {self.number}: {who} que a água da torneira cura tudo."

    def area(self, options: Sequence[str]) -> str:
        """The one that is right."""
        return options[self.number % len(options)]

    def answer(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a good model answers to a question about it; None when the schema asks for something else."""
        properties = schema.get("properties") or {}
        if "personalities" in properties:
            names = [each.name for each in self.people] + ([UNKNOWN] if self.unknown else [])
            about = {"confidence": 0.9, "context": "Falou da água."}
            return {"personalities": [{"name": name, "mentioned_as": name, **about} for name in names]}
        if "topics" in properties:
            about = {"confidence": 0.8, "context": "A alegação trata disto."}
            return {"topics": [{"name": each.name, **about} for each in self.topics]}
        if "severity" in properties:
            return {"severity": self.severity}
        if properties.keys() == {"name", "description"}:
            options = properties["name"].get("enum") or ["Outros"]
            return {"name": self.area(options), "description": "Quem acredita deixa de se tratar."}
        return None


def claim_in(text: str) -> Claim | None:
    """The first claim that is quoted in a text."""
    found = _NUMBER.search(text)
    return None if found is None else Claim.numbered(int(found[1]))
