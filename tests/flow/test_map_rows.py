"""Rows of map() that are no requests: each is told by its number and field, and stops no other."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest

from claude_throttle import InvalidCall
from tests.support.calls import HELLO, ask, echo

SECRET = "what stands in the row"


def outcomes(throttler, rows):
    """What each row came to: the text, or the error."""
    answers = throttler.map(rows, return_exceptions=True)
    return [one if isinstance(one, Exception) else echo(one) for one in answers]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ask(math.nan), "messages[0].content is nan"),
        (ask(temperature=math.inf), "temperature is inf"),
        (ask(max_tokens=math.nan), "max_tokens is nan"),
        ({**ask(), "model": math.nan}, "model is nan"),
        (ask(system=math.nan), "system is nan"),
        (ask(timeout=math.nan), "timeout must be a positive number"),
        (ask(priority=math.nan), "priority= must be"),
        (ask(tenant=math.nan), "tenant= must be"),
        (ask(messages=SECRET), "messages= must be a list"),
        (None, "not NoneType"),
        (SECRET, "not str"),
        ([("model", SECRET)], "not list"),
        (namedtuple("Row", "prompt")(SECRET), "write row._asdict()"),
        ({**ask(), 5: SECRET}, "keywords must be strings"),
        ({**ask(), "self": SECRET}, "self"),
        (ask(api_key=SECRET), "api_key="),
    ],
)
def test_an_unusable_row_is_told_by_number_and_field_and_stops_no_other(fake, throttle, row, words):
    """What stands in it is not shown."""
    first, error, last = outcomes(throttle(fake()), [ask("a"), row, ask("b")])
    assert (first, last) == ("a", "b")
    assert isinstance(error, InvalidCall)
    assert str(error).startswith("row 1 (from 0): ")
    assert words in str(error)
    assert SECRET not in str(error)


def test_an_unusable_row_is_raised_in_its_place(fake, throttle):
    """After the answers before it; the iteration ends there."""
    answers = throttle(fake()).map([ask("a"), None, ask("b")])
    assert echo(next(answers)) == "a"
    with pytest.raises(InvalidCall, match="row 1"):
        next(answers)
    assert list(answers) == []


def rows_of(table):
    for record in table:
        yield ask(record["prompt"])


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_a_generator_that_raises_is_told_by_its_row_after_the_others(
    fake, throttle, return_exceptions
):
    """Those that were read already are answered; its own error is the cause."""
    table = [{"prompt": "a"}, {"prompt": "b"}, {"promt": SECRET}]
    answers = throttle(fake()).map(rows_of(table), return_exceptions=return_exceptions)
    assert [echo(next(answers)), echo(next(answers))] == ["a", "b"]
    if return_exceptions:
        error = next(answers)
    else:
        with pytest.raises(InvalidCall) as caught:
            next(answers)
        error = caught.value
    words = "row 2 (from 0): the iterable of requests raised KeyError for prompt"
    assert (type(error), str(error)) == (InvalidCall, words)
    assert isinstance(error.__cause__, KeyError)
    assert list(answers) == []


def test_a_generator_that_holds_for_all_rows_is_the_same_for_each(fake, throttle):
    """It is read before the first."""
    server = fake()
    tools = ({"name": name, "input_schema": {"type": "object"}} for name in ("a", "b"))
    betas = (name for name in ("x", "y"))
    answers = throttle(server).map([ask("a"), ask("b")], tools=tools, betas=betas)
    first, second = (answer["usage"]["input_tokens"] for answer in answers)
    assert first == second
    assert {one.headers["anthropic-beta"] for one in server.arrivals} == {"x,y"}


class Reader:
    """An iterator that goes on after an error, as ``csv.reader`` does."""

    def __init__(self, *rows):
        self.rows = list(rows)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.rows:
            raise StopIteration
        row = self.rows.pop(0)
        if isinstance(row, Exception):
            raise row
        return row


def test_an_iterator_that_goes_on_after_an_error_is_read_on(fake, throttle):
    """But not for ever, if it raises each time."""
    found = outcomes(throttle(fake()), Reader(ask("a"), ValueError(SECRET), ask("b")))
    assert [found[0], str(found[1]), found[2]] == [
        "a",
        "row 1 (from 0): the iterable of requests raised ValueError",
        "b",
    ]
    assert len(outcomes(throttle(fake()), Reader(*[ValueError()] * 500, ask("b")))) == 101


class Frame:
    """As much of a pandas DataFrame as map() looks at; iterating it gives its columns' names."""

    def __iter__(self):
        return iter(["prompt"])

    def iterrows(self):
        return iter(())


@pytest.mark.parametrize(
    ("requests", "instead"), [(HELLO, "[{…}, {…}]"), ("x", "[{…}"), (Frame(), "to_dict")]
)
def test_one_request_or_a_whole_table_is_no_list_of_requests(fake, throttle, requests, instead):
    """The right form is shown."""
    with pytest.raises(InvalidCall) as caught:
        next(throttle(fake()).map(requests))
    assert instead in str(caught.value)
