"""Pages of a SQLite file, read without SQLite: the same rows and entries as SQLite's, and no surprise in noise."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.stores.sqlite import pages


def fetched(path: Path, page_bytes: int) -> pages.Fetch:
    data = path.read_bytes()
    return lambda number: data[(number - 1) * page_bytes : number * page_bytes] or None


@pytest.mark.parametrize("page_bytes", [512, 4096, 16384, 65536])
def test_rows_and_entries_are_those_of_sqlite(tmp_path: Path, page_bytes: int) -> None:
    """Every kind of value, rows on chains of pages, trees of several levels, negative and large row numbers."""
    random.seed(page_bytes)
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute(f"PRAGMA page_size = {page_bytes}")
        db.execute("CREATE TABLE t (a TEXT UNIQUE, b REAL, c INTEGER, d BLOB)")
        sizes = [0, 1, 60, page_bytes - 60, page_bytes - 35, page_bytes, 3 * page_bytes, 10 * page_bytes + 7]
        for number in [*range(1, 1500), -5, 2**40, 2**63 - 1]:
            value = random.choice([None, 0, 1, -1, 127, -129, 2**15, 2**23, -(2**31), 2**47, 2**63 - 1, -(2**63)])
            blob = random.randbytes(random.choice(sizes) if number % 40 == 0 else 20)
            name = f"{number}-{'ü' * random.choice([1, 3, page_bytes // 3 if number % 50 == 0 else 2])}"
            db.execute("INSERT INTO t (rowid, a, b, c, d) VALUES (?, ?, ?, ?, ?)", (number, name, 0.5, value, blob))
        db.execute("DELETE FROM t WHERE rowid % 7 = 0")
        db.commit()
        expected = {number: row for number, *row in db.execute("SELECT rowid, a, b, c, d FROM t")}
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_schema"))
    fetch = fetched(tmp_path / "db", page_bytes)
    table = pages.walk(fetch, roots["t"], pages.TABLE)
    index = pages.walk(fetch, roots["sqlite_autoindex_t_1"], pages.INDEX)
    assert table.whole
    assert index.whole
    found = [row for number in table.pages for row in pages.rows(fetch(number) or b"", fetch)]
    assert {number: list(values or ()) for number, values in found} == expected
    assert [number for number, _ in found] == sorted(expected)
    entries = [entry for number in index.pages for entry in pages.entries(fetch(number) or b"", fetch)]
    assert sorted(entries) == sorted((row[0], number) for number, row in expected.items())
    assert pages.free(fetch).isdisjoint({*table.pages, *index.pages})


def test_free_pages_are_those_of_sqlite(tmp_path: Path) -> None:
    """What was deleted stays on its pages: the list says which ones."""
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("PRAGMA page_size = 512")
        db.execute("CREATE TABLE t (a)")
        db.executemany("INSERT INTO t VALUES (?)", [(bytes(300),)] * 400)
        db.execute("DELETE FROM t WHERE rowid > 20")
        db.commit()
        (count,) = db.execute("PRAGMA freelist_count").fetchone()
    assert len(pages.free(fetched(tmp_path / "db", 512))) == count > 300


@given(st.binary(min_size=512, max_size=512), st.sampled_from([2, 5, 10, 13]), st.integers(0, 2**16))
def test_noise_has_no_surprise(noise: bytes, kind: int, count: int) -> None:
    """Any bytes in the place of a page give rows, entries and trees, or nothing; never an exception or no end."""
    image = bytes([kind]) + noise[1:3] + (count % 40).to_bytes(2, "big") + noise[5:]

    def fetch(number: int) -> bytes | None:
        return image if number % 3 else None

    for _ in pages.rows(image, fetch):
        pass
    for _ in pages.entries(image, fetch):
        pass
    for kinds in (pages.TABLE, pages.INDEX):
        pages.walk(lambda number: image if number < 50 else None, 1, kinds)
    pages.free(lambda number: image if number < 50 else None)
