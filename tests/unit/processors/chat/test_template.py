"""Prompt templates: fields of the content, and nothing else."""

import pytest

from ai_task_processor.core.errors import TaskError
from ai_task_processor.processors.chat.template import Template


@pytest.mark.parametrize(
    ("text", "content", "rendered"),
    [
        ("no place", {}, "no place"),
        ("{{ a }}", {"a": "x"}, "x"),
        ("{{a}} and {{ a }}", {"a": "x"}, "x and x"),
        ("{{ a.b }}!", {"a": {"b": "x"}}, "x!"),
        ("{{ a }}", {"a": ["x", 1, None, True]}, '["x",1,null,true]'),
        ("{{ a }}", {"a": 1.5}, "1.5"),
        ("{{ a }}", {"a": ""}, ""),
        ("[{{ a? }}]", {}, "[]"),
        ("[{{ a.b? }}]", {"a": None}, "[]"),
        ("{{ a }}", {"a": "{{ b }}", "b": "secret"}, "{{ b }}"),
        ("{ a } {%if%} $a", {}, "{ a } {%if%} $a"),
    ],
)
def test_a_field_is_inserted(text: str, content: dict[str, object], rendered: str) -> None:
    """Strings as they are, other values as JSON; what is inserted is no template."""
    assert Template.parse(text).render(content) == rendered


@pytest.mark.parametrize(
    ("text", "content", "missing"),
    [("{{ a }}", {}, "a"), ("{{ a }}", {"a": None}, "a"), ("{{ a.b }}", {"a": "x"}, "a.b"), ("{{ a.b }}", {}, "a.b")],
)
def test_a_missing_field_is_the_tasks_fault(text: str, content: dict[str, object], missing: str) -> None:
    with pytest.raises(TaskError) as raised:
        Template.parse(text).render(content)
    assert (raised.value.code, raised.value.message) == ("invalid_content", f"content has no {missing}")


@pytest.mark.parametrize(
    "text", ["{{ 1 + 1 }}", "{{ }}", "{{ a b }}", "{{ a[0] }}", "{{ a.__class__() }}", "{{ a|b }}"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no name of a field"):
        Template.parse(text)
