"""The chat types of the profile ``aletheia``: a claim to be checked gets its people, topics, area and severity.

A type is a TOML file with prompt and schema (``*.toml``), a shape for the upstream (``shapes.py``), and what is looked
up in Wikidata (``wikidata.py``). ``processor.py`` puts them together. Only the names are known until the first such
task comes: a daemon that only makes embeddings does not load the rest.
"""

from ai_task_processor.models.task import TaskType

IDENTIFYING_DATA = TaskType.IDENTIFYING_DATA.value
DEFINING_TOPICS = TaskType.DEFINING_TOPICS.value
DEFINING_IMPACT_AREA = TaskType.DEFINING_IMPACT_AREA.value
DEFINING_SEVERITY = TaskType.DEFINING_SEVERITY.value

TYPES = frozenset({IDENTIFYING_DATA, DEFINING_TOPICS, DEFINING_IMPACT_AREA, DEFINING_SEVERITY})
