"""README and ``docs/`` are true: the settings, commands, targets, metrics, alerts and files that they name exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk import environment_variables

from ai_task_processor.cli import main as cli
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import built_in_groups, load_selected
from ai_task_processor.core.settings import Variable, variables
from ai_task_processor.ops import spans
from tests.ops.monitoring import ALERTS, families

ROOT = Path(__file__).parents[2]
PAGES = {path: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
FENCED = re.compile(r"^```\w*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [block for text in PAGES.values() for block in FENCED.findall(text)]
PROSE = "\n".join(FENCED.sub("", text) for text in PAGES.values())
SPANS = re.findall(r"`([^`\n]+)`", PROSE)
CODE = [*SPANS, *(line for block in BLOCKS for line in block.splitlines())]

DEFAULTS = {variable.name: variable.default for variable in variables(built_in_groups())}
#: a row of a table whose first cell is one variable, and its second cell
ROWS = dict(
    re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \| ([^|]*) \|", PAGES[ROOT / "docs/configuration.md"], flags=re.MULTILINE)
)
#: hosts of addresses that are examples, this machine, or a documented default
HOSTS = re.compile(
    r"www\.wikidata\.org|api\.search\.brave\.com|localhost|127\.0\.0\.1|(.*\.)?example\.com|.*\.projects\.oryapis\.com"
)


def test_the_table_has_every_setting_and_no_other() -> None:
    """Each variable that is read has one row, in the order of the settings."""
    assert list(ROWS) == list(DEFAULTS)


@pytest.mark.parametrize("variable", variables(built_in_groups()), ids=lambda variable: variable.name)
def test_a_row_shows_the_default(variable: Variable) -> None:
    """A default stands in the row as code, or the row names a variable of the same default; otherwise there is none."""
    shown = re.fullmatch(r"`([^`]*)`", ROWS[variable.name])
    value = shown[1] if shown else ""
    assert DEFAULTS.get(value, value) == variable.default


def test_what_is_required_is_called_required() -> None:
    """What a start without any setting complains about says ``required``; only the model's key says it too."""
    with pytest.raises(ConfigurationError) as caught:
        load_selected({}, None)
    missing = {problem.split()[0] for problem in caught.value.problems}
    required = {name for name, cell in ROWS.items() if cell.startswith("required")}
    assert required == missing | {"OPENAI_API_KEY"}


def test_every_variable_that_is_named_exists() -> None:
    """A capital name with an underscore in code is a setting, its file form, or one of compose or OpenTelemetry."""
    known = {*DEFAULTS, *(f"{variable.name}_FILE" for variable in variables(built_in_groups()) if variable.secret)}
    known |= {"TASK_ID", "REQUIRE_ALL", "CONCURENCY_LIMIT"}
    known |= set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    known |= set(vars(environment_variables))
    assert {name for span in SPANS for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", span)} <= known


def test_every_make_target_exists() -> None:
    """``make something`` in code is a target, and the ones a newcomer needs are there."""
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0].split()
    named = {target for code in CODE for target in re.findall(r"(?:^|[$ ])make ([a-z]+(?:-[a-z]+)*)", code)}
    assert {"demo", "install", "test", "check"} <= named <= set(phony)


def _commands() -> Iterator[tuple[str, ...]]:
    for code in CODE:
        for words in re.findall(r"(?:^|[/ ])ai-task-processor((?: [a-z]+(?:-[a-z]+)*){1,2})", code):
            yield tuple(words.split())
        if code.startswith("outbox "):
            yield tuple(re.findall(r"^outbox [a-z]+", code)[0].split())


COMMANDS = sorted(set(_commands()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_exists(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command that is named, with its action, has a help page."""
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--help"])
    assert left.value.code == 0
    assert f"usage: ai-task-processor {' '.join(words)} " in capsys.readouterr().out


def test_no_command_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``--help`` lists is named."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    offered = set(re.findall(r"^    ([a-z]+(?:-[a-z]+)*)\b", capsys.readouterr().out, flags=re.MULTILINE))
    assert len(offered) >= 7
    assert offered == {words[0] for words in COMMANDS}


def test_every_metric_exists() -> None:
    """Each metric that is named is one that the daemon exposes."""
    named = set(re.findall(r"\bai_task_processor_\w+", PROSE))
    assert named
    assert named <= {sample.name for family in families() for sample in family.samples}


def test_every_alert_has_its_remedy() -> None:
    """The alerts in the pages are the alerts of the rules, all of them, each with its severity and what to do."""
    rows = re.findall(r"^\| (`AiTask.+?) \| ([\w, ]+) \| (.{20,}) \|$", PROSE, flags=re.MULTILINE)
    told = {
        name: severity
        for names, severities, _ in rows
        for name, severity in zip(re.findall(r"`(\w+)`", names), severities.split(", "), strict=True)
    }
    assert told == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}
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
