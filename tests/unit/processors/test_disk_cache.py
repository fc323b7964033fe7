"""The cache on disk: entries end, survive the process, and a broken file costs entries and nothing else."""

from pathlib import Path

import pytest

from ai_task_processor.processors import disk_cache
from ai_task_processor.processors.disk_cache import DiskCache


class Now:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


async def test_entries_end(tmp_path: Path) -> None:
    """Also the entry that there is nothing; another process finds those that are left."""
    now = Now()
    kept = DiskCache(tmp_path / "c.db", now)
    assert await kept.get("a") == (False, None)
    await kept.put("a", {"é": [1]}, for_s=10)
    await kept.put("none", None, for_s=5)
    assert await kept.get("a") == (True, {"é": [1]})
    assert await kept.get("none") == (True, None)
    now.seconds += 5
    assert await kept.get("none") == (False, None)
    await kept.aclose()
    again = DiskCache(tmp_path / "c.db", now)
    assert await again.get("a") == (True, {"é": [1]})
    await again.put("a", 2, for_s=1)
    assert await again.get("a") == (True, 2)
    await again.aclose()
    assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"no database" * 1_000, b"SQLite format 3\0" + bytes(5_000)])
async def test_a_broken_file_is_replaced(tmp_path: Path, data: bytes) -> None:
    (file := tmp_path / "c.db").write_bytes(data)
    kept = DiskCache(file, Now())
    assert await kept.get("a") == (False, None)
    await kept.put("a", 1, for_s=10)
    await kept.aclose()
    kept = DiskCache(file, Now())
    assert await kept.get("a") == (True, 1)
    await kept.aclose()


async def test_without_a_file_it_is_in_memory(tmp_path: Path) -> None:
    """Without a directory, or with one that cannot hold the file."""
    for file in (None, tmp_path / "none" / "c.db", tmp_path):
        kept = DiskCache(file, Now())
        await kept.put("a", 1, for_s=10)
        assert await kept.get("a") == (True, 1)
        await kept.aclose()


@pytest.mark.parametrize("tidy_every", [1000, 5])
async def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tidy_every: int) -> None:
    """Those that end first go first, at the start and while it is used."""
    monkeypatch.setattr(disk_cache, "TIDY_EVERY", tidy_every)
    for start in (0, 10):
        kept = DiskCache(tmp_path / "c.db", Now(), 3)
        for number in range(start, start + 10):
            await kept.put(str(number), number, for_s=10 + number)
        found = [number for number in range(20) if (await kept.get(str(number)))[0]]
        assert len(found) == (3 if tidy_every == 5 else 10 + 3 * (start > 0))
        await kept.aclose()
    kept = DiskCache(tmp_path / "c.db", Now(), 3)
    found = [number for number in range(20) if (await kept.get(str(number)))[0]]
    assert found == [17, 18, 19]
    await kept.aclose()
