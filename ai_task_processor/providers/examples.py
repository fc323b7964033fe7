"""A value that fits a JSON Schema, for mock answers: deterministic, and as small as the schema allows.

The schema's own words go first: ``const``, ``examples``, ``default``, ``enum``.
"""

from collections.abc import Mapping
from typing import Any

#: schemas nest; references to themselves must end
MAX_DEPTH = 32


def example(schema: Mapping[str, Any]) -> Any:
    """Raises ``ValueError`` for a schema that is too deep, or refers to something outside itself."""
    return _example(schema, schema, 0)


def _example(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("the schema nests too deeply for an example")
    if not isinstance(schema, Mapping):
        return None
    for name in ("const", "examples", "default", "enum"):
        if name in schema:
            return schema[name][0] if name in ("examples", "enum") else schema[name]
    if "$ref" in schema:
        return _example(_referred(str(schema["$ref"]), root), root, depth + 1)
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            return _example(schema[name][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root, depth)


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _example(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
        case "array":
            return [_example(schema.get("items", {}), root, depth + 1)] * schema.get("minItems", 0)
        case "integer" | "number":
            return max(0, schema.get("minimum", 0))
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "mock".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 10_000)]


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    if not reference.startswith("#"):
        raise ValueError("the schema refers to another file")
    found: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        found = found[name.replace("~1", "/").replace("~0", "~")]
    return found
