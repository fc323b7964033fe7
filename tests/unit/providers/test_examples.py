"""Mock answers: the smallest value that fits a schema."""

import pytest
from jsonschema import Draft202012Validator

from ai_task_processor.providers.examples import example

NESTED = {
    "type": "object",
    "required": ["people", "kind"],
    "properties": {
        "people": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1},
        "kind": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    },
    "$defs": {"person": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "mock"),
        ({"const": 3}, 3),
        ({"enum": ["b", "a"]}, "b"),
        ({"enum": ["b", "a"], "examples": ["a"]}, "a"),
        ({"type": "string", "default": "d"}, "d"),
        ({"type": "string", "minLength": 6, "maxLength": 7}, "mock.."),
        ({"type": "string", "maxLength": 2}, "mo"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "number"}, 0),
        ({"type": "boolean"}, False),
        ({"type": ["null", "string"]}, None),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"enum": ["x"]}, "minItems": 2}, ["x", "x"]),
        (NESTED, {"people": [{"name": "mock"}], "kind": None}),
    ],
)
def test_it_fits(schema: dict[str, object], value: object) -> None:
    assert example(schema) == value
    Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "other.json"}, {"required": ["a"], "properties": {"a": {"$ref": "#"}}}]
)
def test_what_has_no_end_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"nests too deeply|another file"):
        example(schema)
