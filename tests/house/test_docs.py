"""README and ``docs/`` are true: the settings, commands, targets, metrics, alerts and files that they name exist."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk import environment_variables

from ai_task_processor.cli import main as cli
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.variables import variables
from ai_task_processor.ops import spans
from docs.__main__ import current
from docs.generated import filled
from tests.ops.monitoring import ALERTS, families

ROOT = Path(__file__).parents[2]
PAGES = {path: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
FENCED = re.compile(r"^```\w*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [block for text in PAGES.values() for block in FENCED.findall(text)]
PROSE = "\n".join(FENCED.sub("", text) for text in PAGES.values())
SPANS = re.findall(r"`([^`\n]+)`", PROSE)
CODE = [*SPANS, *(line for block in BLOCKS for line in block.splitlines())]

VARIABLES = variables(built_in_groups())
#: hosts of addresses that are examples, this machine, or a documented default
HOSTS = re.compile(
    r"host|www\.wikidata\.org|api\.search\.brave\.com|localhost|127\.0\.0\.1|(.*\.)?example\.com|.*\.projects\.oryapis\.com"
)


def test_the_generated_parts_are_current() -> None:
    """The files are what ``python -m docs`` writes."""
    assert [file.name for file, text in current().items() if file.read_text("utf-8") != text] == [], (
        "run python -m docs"
    )


def test_a_part_without_its_comments_is_noticed() -> None:
    page = "<!-- a: written by python -m docs -->\nold\n<!-- end of a -->\n"
    assert filled(page, [("a", ["new"])]) == page.replace("old", "new")
    with pytest.raises(ValueError, match="must be in the page"):
        filled(page, [("b", ["new"])])


def test_every_setting_has_one_row() -> None:
    rows = re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", PAGES[ROOT / "docs/configuration.md"], flags=re.MULTILINE)
    assert sorted(rows) == sorted(variable.name for variable in VARIABLES)


def test_every_variable_that_is_named_exists() -> None:
    """A capital name with an underscore in code is a setting, its file form, or one of compose or OpenTelemetry."""
    known = {variable.name for variable in VARIABLES} | {f"{each.name}_FILE" for each in VARIABLES if each.secret}
    known |= {"TASK_ID", "REQUIRE_ALL", "CONCURENCY_LIMIT", "SASL_SSL", "SASL_PLAINTEXT"}
    known |= set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    known |= set(vars(environment_variables))
    assert {name for span in SPANS for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", span)} <= known


def test_every_make_target_exists() -> None:
    """``make something`` in code is a target, and the ones a newcomer needs are there."""
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0].split()
    named = {target for code in CODE for target in re.findall(r"(?:^|[$ ])make ([a-z]+(?:-[a-z]+)*)", code)}
    assert {"demo", "install", "test", "check"} <= named <= set(phony)


def _commands() -> Iterator[tuple[str, ...]]:
    """The arguments of each command, without what the usage marks as optional, and without what the shell reads."""
    for code in CODE:
        found = re.search(r"(?:^|[/ ])ai-task-processor ([a-z].*)|^(outbox [a-z].*)", code)
        if found:
            text = re.sub(r"\[[^\]]*\]| \.\.\.", "", found[1] or found[2])
            yield tuple(
                takewhile(
                    lambda word: word not in {">", "|", "&&", "||"}, shlex.split(text.partition("  ")[0], comments=True)
                )
            )


COMMANDS = sorted(set(_commands()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_exists(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser takes each command that is named with its arguments; one that is only named has a help page."""
    if all(re.fullmatch("[a-z]+", word) for word in words):
        with pytest.raises(SystemExit) as left:
            cli.main([*words, "--help"])
        assert left.value.code == 0
        assert f"usage: ai-task-processor {' '.join(words)} " in capsys.readouterr().out
    else:
        assert cli._parser().parse_args(words)


async def test_the_contract_of_the_example_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented test of the documented processor passes as it stands."""
    page = PAGES[ROOT / "docs/plugins.md"]
    processor, contract = (
        re.findall(rf"<!-- example: {name} -->\n```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)[0]
        for name in ("processor", "contract")
    )
    (tmp_path / "word_count_processor.py").write_text(processor)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(contract, names)
    await names["test_the_contract"]()


def test_no_command_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``--help`` lists is in the table of the README, whose first cell may name several commands."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    offered = set(re.findall(r"^    ([a-z-]+)\b", capsys.readouterr().out, flags=re.MULTILINE))
    assert len(offered) >= 7
    cells = re.findall(r"^\| (`ai-task-processor .+?) \|", PAGES[ROOT / "README.md"], flags=re.MULTILINE)
    assert offered == {name for cell in cells for name in re.findall(r"`(?:ai-task-processor )?([a-z-]+)`", cell)}


def test_every_metric_exists() -> None:
    """Each metric that is named is one that the daemon exposes."""
    named = set(re.findall(r"\bai_task_processor_\w+", PROSE))
    assert named
    assert named <= {name for family in families() for name in (family.name, *(s.name for s in family.samples))}


def test_every_alert_has_a_runbook() -> None:
    """Steps with numbers, which name no alert that is not one."""
    for name, rule in ALERTS.items():
        assert re.match(r"1\. .{20,}\n2\. ", rule["annotations"]["runbook"]), name
    assert set(re.findall(r"`(AiTaskProcessor\w+)`", PROSE)) == ALERTS.keys()


def test_the_page_of_traces_is_the_catalogue() -> None:
    """Its tables have every span and attribute, with the words of the module."""
    expected = [f"| `{name}` | {kind.name} | {meaning} |" for name, (kind, meaning) in spans.SPANS.items()]
    expected += [f"| `{name}` | {meaning} |" for name, meaning in spans.ATTRIBUTES.items()]
    assert re.findall(r"^\| `.*", PAGES[ROOT / "docs/traces.md"], flags=re.MULTILINE) == expected


def test_every_file_exists() -> None:
    """Files and folders named in code stand in the project or in the package."""
    named = {span for span in SPANS if re.fullmatch(r"[\w./-]+\.(?:py|yml|toml|txt|md|example)|tests/\w+|\w+/", span)}
    assert len(named) >= 5
    assert {
        name
        for name in named - {"helpdesk.toml"}
        if not any((base / name).exists() for base in (ROOT, ROOT / "ai_task_processor"))
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Relative links lead to files, and anchors to headings. Those of ``docs/`` stay there: it is a site, too."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", PAGES[page])):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert page.name == "README.md" or file.is_relative_to(ROOT / "docs"), target
        assert not anchor or anchor in _anchors(PAGES[file]), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", PAGES[ROOT / "README.md"]))
    assert linked == {page.name for page in PAGES} - {"README.md", "index.md"}


def test_the_readme_is_short() -> None:
    """It is read to the end in ten minutes."""
    assert len(PAGES[ROOT / "README.md"].split()) < 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_address_leads_outside(page: Path) -> None:
    """Absolute addresses are examples, this machine, or the documented token endpoint: nobody's downloads."""
    found = re.findall(r"https?://[^\s`)>\"]+", PAGES[page])
    assert [url for url in found if not HOSTS.fullmatch(urlsplit(url).hostname or "")] == []
