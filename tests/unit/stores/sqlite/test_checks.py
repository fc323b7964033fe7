"""What ``doctor`` says of a data directory."""

import errno
from pathlib import Path

import pytest

from ai_task_processor.core import errors
from ai_task_processor.stores.sqlite.checks import contents, examine, unusable_directory


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "full"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (errors.DataDirectoryError("DATA_DIR /data cannot be used (x): give it to user 7"), "cannot be used (x)"),
    ],
)
def test_a_data_directory_that_cannot_be_used_is_73(error: OSError | errors.DataDirectoryError, words: str) -> None:
    """Full, read-only or somebody else's: the remedy is about DATA_DIR."""
    finding = unusable_directory(error, Path("/data"))
    assert (finding.mark, finding.code) == ("failure", 73)
    assert words in finding.text
    assert "DATA_DIR" in finding.remedy


def test_what_is_kept_is_told_by_source_and_state() -> None:
    """Waiting results are no warning; dead letters are, and so is what no daemon of this source will deliver."""
    records = {("ours", "waiting"): 7, ("ours", "dead"): 2, ("theirs", "waiting"): 3, ("theirs", "dead"): 9}
    found = list(contents(records, "ours"))
    assert [(finding.mark, finding.text) for finding in found] == [
        ("ok", "results that wait for delivery: 7"),
        ("warning", "dead letters: 2"),
        ("warning", "results of other sources, kept but not delivered: 3 (theirs)"),
    ]


async def test_looking_at_a_directory_leaves_it_empty(tmp_path: Path) -> None:
    """It is made when it is missing, and nothing stays in it."""
    path = tmp_path / "new" / "data"
    (found,) = [finding async for finding in examine(path, 2**16, "ours")]
    assert (found.mark, found.daemon) == ("ok", False)
    assert list(path.iterdir()) == []


async def test_an_outbox_that_may_outgrow_its_disk_is_a_warning(tmp_path: Path) -> None:
    """OUTBOX_MAX_BYTES beyond what is free, less what it has already."""
    _, found = [finding async for finding in examine(tmp_path, 2**60, "ours")]
    assert (found.mark, "OUTBOX_MAX_BYTES" in found.remedy) == ("warning", True)
