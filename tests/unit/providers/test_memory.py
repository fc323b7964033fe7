"""What was learnt of models, from one process to the next."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_task_processor.providers.memory import ModelMemory

LEARNT = {"m": {"size": {"inputs": 32.0}, "length": 1536}, "ü": {"size": {}, "length": None}}


def test_the_next_process_knows_what_was_learnt(tmp_path: Path) -> None:
    """As it was saved last; of a first process it is nothing."""
    memory = ModelMemory(tmp_path)
    assert memory.load() == {}
    memory.save({"m": {}})
    memory.save(LEARNT)
    assert ModelMemory(tmp_path).load() == LEARNT


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Model names come from tasks."""
    ModelMemory(tmp_path).save(LEARNT)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_has_not_changed_is_not_written(tmp_path: Path) -> None:
    """Neither what was saved nor what was loaded; nothing at all is no news."""
    ModelMemory(tmp_path).save(LEARNT)
    (file,) = tmp_path.iterdir()
    memory = ModelMemory(tmp_path)
    assert memory.load() == LEARNT
    file.unlink()
    memory.save(LEARNT)
    memory.save({})
    assert list(tmp_path.iterdir()) == []
    memory.save(LEARNT | {"n": {}})
    assert json.loads(file.read_bytes()) == LEARNT | {"n": {}}


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"17", b'"m"', b'{"m":', b"{'m': 1}", b"\xff\xfe", b"\x00" * 100, b'{"m": NaN}',
     b"[" * 100_000, b'{"m":"' + b"x" * 2**20 + b'"}'],
    ids=lambda content: str(content[:12]),
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """Damaged, of something else, or larger than ours ever is: learnt anew, and replaced."""
    (tmp_path / "models.json").write_bytes(content)
    memory = ModelMemory(tmp_path)
    assert memory.load() == {}
    memory.save(LEARNT)
    assert ModelMemory(tmp_path).load() == LEARNT


def test_a_reader_finds_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves the old one, and the next one is not disturbed by the rest."""
    ModelMemory(tmp_path).save(LEARNT)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: None)
        ModelMemory(tmp_path).save({"m": {}})
    assert len(list(tmp_path.iterdir())) == 2
    memory = ModelMemory(tmp_path)
    assert memory.load() == LEARNT
    memory.save({"n": {}})
    assert ModelMemory(tmp_path).load() == {"n": {}}


def test_a_directory_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    """Nothing is raised, and it is tried again."""
    memory = ModelMemory(tmp_path / "missing")
    assert memory.load() == {}
    memory.save(LEARNT)
    (tmp_path / "missing").mkdir()
    memory.save(LEARNT)
    assert ModelMemory(tmp_path / "missing").load() == LEARNT


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(learnt=st.dictionaries(st.text(), st.fixed_dictionaries({"size": st.dictionaries(st.text(), NUMBERS)})))
def test_any_model_name_can_be_kept(tmp_path: Path, learnt: dict[str, Any]) -> None:
    ModelMemory(tmp_path).save(learnt)
    assert not learnt or ModelMemory(tmp_path).load() == learnt
