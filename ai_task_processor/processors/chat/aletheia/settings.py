"""The settings of the chat types of the profile ``aletheia``."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import Encrypted, Group, setting

#: the areas of the upstream's own closed list
AREAS = (
    "Segurança Pública, Saúde, Política, Corrupção e Transparência, Justiça e Direitos Humanos, Economia, "
    "Meio Ambiente, Educação, Relações Internacionais, Infraestrutura e Mobilidade, Ciência e Tecnologia, "
    "Cultura e Esporte, Outros"
)
OFF = "off"


def _endpoint(text: str) -> str:
    return OFF if text.lower() == OFF else syntax.endpoint_url(text)


def _areas(text: str) -> tuple[str, ...]:
    areas = tuple(part.strip() for part in text.split(","))
    if not all(areas) or len({area.casefold() for area in areas}) < len(areas):
        raise ValueError("must be names with commas between, each once")
    return areas


class AletheiaSettings(Group):
    """Where entities are looked up, and the closed list of areas."""

    section = "Claims"

    wikidata_url: Annotated[str, AfterValidator(_endpoint), Encrypted] = setting(
        "WIKIDATA_URL",
        "the URL of Wikidata's api.php, or off",
        "https://www.wikidata.org/w/api.php",
        note=(
            "People and topics of claims are looked up there. With off topics have no ids, and people are "
            "reported only with KEEP_UNKNOWN_PEOPLE."
        ),
    )
    keep_unknown_people: bool = setting(
        "KEEP_UNKNOWN_PEOPLE", "true to report people without an id when WIKIDATA_URL is off", "false"
    )
    impact_areas: Annotated[tuple[str, ...], BeforeValidator(_areas)] = setting(
        "IMPACT_AREAS", "the names of the areas of tasks without options, with commas between", AREAS
    )

    @property
    def looks_up(self) -> bool:
        return self.wikidata_url != OFF
