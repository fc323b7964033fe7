"""The JSON Schema of the settings as the environment holds them, built from pydantic's of each group. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from ai_task_processor.cli.config.rows import default_of, fields_of, unit
from ai_task_processor.core.groups import Group, is_secret, names

_NUMBERS = ("minimum", "maximum", "exclusiveMinimum")


class _TextSchema(GenerateJsonSchema):
    """Types that JSON Schema cannot express are texts."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        return {"type": "string"}


def schema(groups: Iterable[type[Group]]) -> dict[str, Any]:
    """The schema of an object with the variables as keys. Values may be texts, as everything in an environment is.

    Own keywords: ``unit``. Lists and tables are texts here: the description says how they are written.
    """
    groups = list(groups)
    generated = {group: group.model_json_schema(schema_generator=_TextSchema)["properties"] for group in groups}
    properties = {}
    for name, key, field, group in fields_of(groups):
        properties[name] = _property(generated[group][str(field.validation_alias)], field, unit(key))
        for file in names(field)[1:]:
            properties.setdefault(file, {"type": "string", "description": f"the path of a file that holds {name}"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The settings of ai-task-processor",
        "type": "object",
        "properties": properties,
    }


def _property(found: Mapping[str, Any], field: FieldInfo, unit: str) -> dict[str, Any]:
    note = (field.json_schema_extra or {}).get("note") if isinstance(field.json_schema_extra, dict) else ""
    described = ". ".join(filter(None, (field.description or "", str(note or ""))))
    made: dict[str, Any] = {"description": described, **({"unit": unit} if unit else {})}
    default, kind = default_of(field), found.get("type")
    if is_secret(field):
        return {"type": "string", "format": "password", "writeOnly": True, **made}
    if kind in ("integer", "number") and unit != "bytes":
        made |= {"type": [kind, "string"], **{key: found[key] for key in _NUMBERS if key in found}}
        return made | ({"default": int(default) if kind == "integer" else float(default)} if default else {})
    if kind == "boolean":
        return made | {"type": ["boolean", "string"], "default": default == "true"}
    made |= {"type": "string"} | ({"examples": found["enum"]} if "enum" in found else {})
    return made | ({"default": default} if default else {})
