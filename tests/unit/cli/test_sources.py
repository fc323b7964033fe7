"""``sources list`` and ``show``, and ``sources check`` of a profile that is wrong."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ai_task_processor.cli import main as cli
from ai_task_processor.core.plugins import BUILT_IN
from ai_task_processor.core.ports import TaskSource
from ai_task_processor.core.profiles import FOLDER
from tests.unit.packages import Install, install

__all__ = ["install"]


class FolderSource(TaskSource):
    """Reads files.

    A second paragraph, which nobody lists.
    """

    name = "folder"
    task_types = frozenset({"ocr", "crop"})


class OddSource(TaskSource):
    task_types = 3  # type: ignore[assignment]  # the mistake


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TASK_SOURCE", raising=False)


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert cli.main(["sources", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["name"]: row for row in rows}


def test_every_source_is_listed_also_beside_broken_ones(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Profiles with kind and types, classes with their package; what cannot be used says why, and ends nothing."""
    install("sources", folder=FolderSource, odd=OddSource)
    install("sources", "one", twice=FolderSource)
    install("sources", "two", twice=FolderSource)
    monkeypatch.setenv("TASK_SOURCE", "folder")
    rows = listed(capsys)
    assert rows.keys() == {*BUILT_IN["sources"], "folder", "odd", "twice"}
    assert [name for name, row in rows.items() if row["selected"]] == ["folder"]
    assert rows["aletheia"]["kind"] == "rest"
    assert "text_embedding" in str(rows["aletheia"]["types"])
    folder = {"kind": "package acme", "types": ["crop", "ocr"], "description": "Reads files.", "broken": ""}
    assert rows["folder"].items() >= folder.items()
    assert "TypeError" in str(rows["odd"]["broken"])
    assert rows["twice"]["broken"] == "two packages have this name"


def test_the_profile_of_a_user_is_listed_when_it_is_selected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it is, or with its mistakes."""
    monkeypatch.setenv("TASK_SOURCE", "mine.toml")
    assert "cannot be read" in str(listed(capsys)["mine.toml"]["broken"])
    (tmp_path / "mine.toml").write_bytes((FOLDER / "agents-playground.toml").read_bytes())
    mine = listed(capsys)["mine.toml"]
    assert (mine["kind"], mine["types"], mine["selected"], mine["broken"]) == ("rest", ["summarize"], True, "")


def test_a_list_for_people_has_no_colours_in_a_file(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("sources", broken=SimpleNamespace(settings_groups=3))
    assert cli.main(["sources", "list"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "* aletheia             rest\n    The NestJS API" in out
    assert "  broken               package acme\n    broken: the source 'broken'" in out


def test_a_shown_profile_can_be_saved(capsys: pytest.CaptureFixture[str]) -> None:
    """It is the file as it is; the settings that it reads are told beside it."""
    assert cli.main(["sources", "show", "aletheia"]) == 0
    shown = capsys.readouterr()
    assert shown.out == (FOLDER / "aletheia.toml").read_text("utf-8")
    settings = [line.split()[:2] for line in shown.err.splitlines() if line.startswith("  ")]
    assert ["API_BASE_URL", "required"] in settings
    assert ["OAUTH2_CLIENT_ID", "required"] in settings
    assert ["REQUEST_TIMEOUT", "30"] in settings


@pytest.mark.parametrize("action", ["show", "check"])
def test_an_unknown_name_is_told_with_those_that_there_are(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An argument is at fault, and no setting."""
    assert cli.main(["sources", action, "nowhere"]) == 78
    told = "".join(capsys.readouterr())
    assert "no source that is installed ('nowhere'): there are agents-playground, aletheia" in told
    assert "TASK_SOURCE" not in told


def test_the_mistakes_of_a_checked_profile_name_file_and_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text('kind = "rest"\ntypes = ["a"]\n[list]\npth = "/x"\n')
    assert cli.main(["sources", "check", "bad.toml"]) == 78
    out = capsys.readouterr().out
    assert "✗ profile         bad.toml:3: list.path is missing: add it\n" in out
    assert "✗ profile         bad.toml:4: list.pth is no key of a profile: remove or correct it\n" in out
    assert "TASK_SOURCE" not in out
    assert cli.main(["sources", "check", "bad.toml", "--json"]) == 78
    report = json.loads(capsys.readouterr().out)
    assert report["code"] == 78
    assert {finding["mark"] for finding in report["findings"]} == {"failure"}


def test_the_schema_is_that_of_the_wheel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sources", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["oneOf"]
