"""The benchmark's upstream notices what a worker does wrong."""

import base64

import numpy as np
import orjson
import pytest

from tests.bench.book import COMPARED, DIMENSIONS, Book, encoded, text

LENGTH = 80


def vector(number: int) -> list[float]:
    """The floats that the model answers for this task."""
    return list(np.frombuffer(base64.b64decode(encoded(text(number, LENGTH))), "<f4"))


def listed(book: Book) -> list[int]:
    return [int(orjson.loads(record)["_id"], 16) for record in book.pending()]


@pytest.fixture
def book() -> Book:
    made = Book(LENGTH)
    made.add(COMPARED + 1)
    return made


def settle(book: Book, number: int, values: object, *, succeeded: bool = True) -> None:
    book.settle(f"{number:024x}", succeeded, lambda: values)


def test_right_results_are_acknowledged(book: Book) -> None:
    """Every task with its own vector: nothing is wrong, repeated or pending."""
    for number in range(COMPARED + 1):
        settle(book, number, vector(number))
    counts = book.counts()
    assert (counts["acknowledged"], counts["repeated"], counts["wrong"]) == (COMPARED + 1, 0, 0)
    assert listed(book) == []
    assert len(book.latencies_s()) == COMPARED + 1


def test_what_is_done_is_not_listed(book: Book) -> None:
    """In the middle as at the front."""
    settle(book, 0, vector(0))
    settle(book, 2, vector(2))
    assert listed(book) == [1, *range(3, COMPARED + 1)]


def test_a_second_report_is_counted(book: Book) -> None:
    """It acknowledges nothing."""
    settle(book, 0, vector(0))
    settle(book, 0, vector(0))
    assert (book.counts()["acknowledged"], book.counts()["repeated"]) == (1, 1)


@pytest.mark.parametrize(
    ("values", "succeeded"), [(vector(1), True), (vector(0)[:-1], True), ([0.0] * DIMENSIONS, True), (vector(0), False)]
)
def test_a_wrong_result_is_counted(book: Book, values: list[float], succeeded: bool) -> None:
    """Another task's vector, a short one, zeros, a failure."""
    settle(book, 0, values, succeeded=succeeded)
    assert book.counts()["wrong"] == 1


def test_one_in_so_many_results_is_compared(book: Book) -> None:
    """Wrong vectors throughout are found, at the price of a few comparisons."""
    for number in range(COMPARED + 1):
        settle(book, number, vector(number + 1))
    assert book.counts()["wrong"] == 2


def test_leased_tasks_are_given_away_once(book: Book) -> None:
    """Conductor's clients never see a task twice."""
    leased = [orjson.loads(record)["taskId"] for record in (*book.handed_out(20), *book.handed_out(COMPARED))]
    assert leased == [f"{number:024x}" for number in range(COMPARED + 1)]


def test_the_clock_runs_from_the_first_task_that_is_handed_out(book: Book) -> None:
    """Neither the time before it counts, nor that of an earlier addition."""
    assert book.counts()["seconds"] == 0.0
    book.begin()
    first = book.counts()["seconds"]
    assert first > 0.0
    book.add(1)
    assert book.counts()["seconds"] == 0.0


def test_a_text_has_its_length_and_is_unique(book: Book) -> None:
    """What is listed is what the vectors are made from."""
    texts = [orjson.loads(record)["content"]["text"] for record in book.pending()]
    assert texts == [text(number, LENGTH) for number in range(COMPARED + 1)]
    assert {len(each) for each in texts} == {LENGTH}
    assert len(set(texts)) == len(texts)
