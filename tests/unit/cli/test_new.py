"""``new``: which names are taken, and what they become."""

import argparse
from pathlib import Path

import pytest

from ai_task_processor.cli import new
from ai_task_processor.core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "distribution", "class_name"),
    [
        ("word-count", "word-count-processor", "WordCountProcessor"),
        ("word_count", "word-count-processor", "WordCountProcessor"),
        ("word-count-processor", "word-count-processor", "WordCountProcessor"),
        ("class", "class-processor", "ClassProcessor"),
        ("a1-2", "a1-2-processor", "A12Processor"),
    ],
)
def test_a_name_in_each_place(name: str, distribution: str, class_name: str) -> None:
    names = new.Names.of(name)
    assert (names.distribution, names.words["class_name"]) == (distribution, class_name)


@pytest.mark.parametrize("name", ["", "Word", "2words", "a--b", "-a", "a-", "a b", "a.b", "ä", "../a", "a\n", "x" * 41])
def test_another_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME is no name of a package: use a-z, 0-9"):
        new.Names.of(name)


def written(name: str, folder: Path) -> int:
    return new.main(argparse.Namespace(name=name, directory=str(folder)))


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder is used, one with a file is not; a built-in type is named."""
    assert written("echo", tmp_path) == 0
    assert "echo is a built-in type: while your package is installed" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 7
    with pytest.raises(ConfigurationError, match="exists and is not empty: name another with --directory"):
        written("other", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="exists and is not empty"):
        written("other", tmp_path / "file")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ConfigurationError, match="the built-in processor takes text_embedding tasks first"):
        written("text-embedding", tmp_path / "new")
    assert not (tmp_path / "new").exists()
