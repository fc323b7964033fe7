"""Builds what the models of profiles say: their JSON Schema, and the tables of keys in ``profiles.md``."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from ai_task_processor.core.plugins import BUILT_IN, KINDS, find
from ai_task_processor.core.profiles import FOLDER, Profile
from docs.generated import COMMAND, Part

SCHEMA = FOLDER / "profile.schema.json"

Schema = Mapping[str, Any]


class TomlSchema(GenerateJsonSchema):
    """Without null, which TOML does not have. Types that JSON Schema cannot express are written as texts."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's
        return False

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        missing = "default" in schema and schema["default"] is None
        return self.generate_inner(schema["schema"]) if missing else super().default_schema(schema)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002 - pydantic's
        return {"type": "string"}


def schema() -> dict[str, Any]:
    """The JSON Schema of profiles of every kind."""
    models = {kind: EntryPoint(kind, place, "").load().profile_type for kind, place in KINDS.items()}
    found, described = models_json_schema(
        [(each, "validation") for each in models.values()], schema_generator=TomlSchema
    )
    definitions = described["$defs"]
    refs = {kind: found[model, "validation"] for kind, model in sorted(models.items())}
    for kind, ref in refs.items():
        definition = definitions[_name(ref)]
        definition["properties"]["kind"] = {**_common()["properties"]["kind"], "const": kind}
        definition["required"] = sorted({"kind", *definition.get("required", ())})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Written by {COMMAND}: do not edit.",
        "title": "A profile of ai-task-processor",
        "oneOf": list(refs.values()),
        "$defs": definitions,
    }


def schema_text() -> str:
    """The file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def parts(_page: str) -> Iterator[Part]:
    yield "built-in profiles", _built_in()
    yield "keys", _keys()


def _built_in() -> Iterator[str]:
    yield from ("| profile | kind | claims | types | what is special |", "|---|---|---|---|---|")
    for name in sorted(BUILT_IN["sources"]):
        source = find("sources", name).load()
        types = ", ".join(f"`{each}`" for each in source.profile.types)
        words = source.profile.description or ""
        yield f"| `{name}` | `{source.profile.kind}` | {source.claims} | {types} | {words} |"


def _common() -> Schema:
    """What profiles of every kind say."""
    return Profile.model_json_schema(schema_generator=TomlSchema)


def _keys() -> Iterator[str]:
    whole, common = schema(), _common()
    kinds = [whole["$defs"][_name(ref)] for ref in whole["oneOf"]]
    words = {"enum": [each["properties"]["kind"]["const"] for each in kinds]}
    common["properties"]["kind"].update(words)
    yield from ("### Every kind", "", *_table(common, list(common["properties"])))
    for definition in kinds:
        properties = definition["properties"]
        own = [name for name in properties if name not in common["properties"]]
        parts = {name: found for name in own if (found := _part(properties[name], whole["$defs"]))}
        yield from ("", f'### `kind = "{properties["kind"]["const"]}"`', "", _prose(definition["description"]))
        if keys := [name for name in own if name not in parts]:
            yield from ("", *_table(definition, keys))
        for name, (header, part) in parts.items():
            need = "required" if name in definition.get("required", ()) else "optional"
            yield from ("", f"**`[{header.format(name)}]`**, {need}. {_prose(part['description'])}", "")
            yield from _table(part, list(part["properties"]))


def _table(definition: Schema, keys: list[str]) -> Iterator[str]:
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    for key in keys:
        one = definition["properties"][key]
        default = f"`{json.dumps(one['default'], ensure_ascii=False)}`" if "default" in one else "none"
        default = "required" if key in definition.get("required", ()) else default
        yield f"| `{key}` | {_value(one)} | {default} | {_prose(one.get('description', ''))} |"


def _prose(text: str) -> str:
    """A docstring or a description in Markdown, on one line."""
    return " ".join(re.sub(r"([*|])", r"\\\1", text.replace("``", "`")).split())


def _part(one: Schema, definitions: Mapping[str, Schema]) -> tuple[str, Schema] | None:
    """The table that a key holds, or each of its keys does, and how its header is written; None for other values."""
    shown, inner = "{}", one
    if isinstance(one.get("additionalProperties"), dict) and "$ref" in one["additionalProperties"]:
        shown, inner = "{}.NAME", one["additionalProperties"]
    found = definitions.get(_name(inner)) if "$ref" in inner else None
    return None if found is None or "properties" not in found else (shown, found)


def _value(one: Schema) -> str:
    """The values that a key may have, in words."""
    if "const" in one:
        return f"`{one['const']}`"
    if "enum" in one:
        return ", ".join(f"`{each}`" for each in one["enum"])
    if "anyOf" in one:
        return " or ".join(dict.fromkeys(_value(each) for each in one["anyOf"]))
    match one.get("type"):
        case "array":
            return f"array of {_value(one['items'])}s"
        case "object":
            return "table"
        case "integer":
            return "whole number"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return {"json-pointer": "JSON pointer", "regex": "regular expression"}.get(one.get("format", ""), "text")
    return str(one.get("type", "anything"))


def _name(ref: Schema) -> str:
    return str(ref["$ref"]).rpartition("/")[2]
