"""What is written can be read again, whatever happened in between."""

from __future__ import annotations

import fcntl
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claude_throttle.cli import CannotStart, outcomes
from claude_throttle.cli.results import Recorded, Results, read_recorded, results_file

WELL = outcomes.succeeded({"id": "msg"})
BADLY = outcomes.refused("Kind", "words")


def written(*results: tuple[str, outcomes.Result]) -> bytes:
    stream = io.BytesIO()
    output = Results(stream, Recorded())
    for custom_id, result in results:
        output.append(custom_id, result)
    return stream.getvalue()


def recorded(data: bytes) -> Recorded:
    return read_recorded(data.splitlines(keepends=True))


def test_an_answer_is_one_batch_result_line() -> None:
    line = json.loads(written(("a", WELL)))
    assert line == {"custom_id": "a", "result": {"type": "succeeded", "message": {"id": "msg"}}}


def test_the_newest_line_of_an_id_counts() -> None:
    state = recorded(written(("a", BADLY), ("b", WELL), ("a", WELL), ("b", BADLY)))
    assert state.succeeded == {"a"}
    assert state.errored == {"b"}


def test_an_output_that_is_empty_is_not_torn() -> None:
    assert recorded(b"") == Recorded()


@settings(deadline=None)
@given(st.data())
def test_a_kill_at_any_byte_loses_only_the_line_it_cut(data: st.DataObject) -> None:
    """And what is appended after it can be read."""
    whole = written(("a", WELL), ("b", WELL), ("c", BADLY))
    cut = data.draw(st.integers(0, len(whole)))
    left = recorded(whole[:cut])
    stream = io.BytesIO(whole[:cut])
    stream.seek(0, io.SEEK_END)
    Results(stream, left).append("d", WELL)
    after = recorded(stream.getvalue())
    assert after.succeeded == left.succeeded | {"d"}
    assert not after.torn


# Hypothesis reads the whole of Unicode once, in the first example.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.text())
def test_any_text_survives(custom_id: str, text: str) -> None:
    stream = written((custom_id, outcomes.succeeded({"text": text})))
    assert stream.count(b"\n") == 1
    assert json.loads(stream)["result"]["message"]["text"] == text


def test_a_lone_surrogate_survives() -> None:
    stream = written(("\ud800", outcomes.succeeded({"text": "x\udfff"})))
    assert json.loads(stream.decode("utf-8"))["custom_id"] == "\ud800"


@pytest.mark.parametrize(
    "line", [b"garbage", b"7", b'{"custom_id": 7}', b'{"custom_id": 7, "result": {"type": "x"}}']
)
def test_a_line_that_is_no_result_is_passed_over(line: bytes) -> None:
    state = recorded(line + b"\n" + written(("a", WELL)))
    assert state.succeeded == {"a"}
    assert state.unreadable == 1


def test_lines_from_many_threads_are_not_mixed() -> None:
    stream = io.BytesIO()
    output = Results(stream, Recorded())

    def work(name: str) -> None:
        for number in range(50):
            output.append(f"{name}{number}", WELL)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded(stream.getvalue()).succeeded) == 200


def test_a_file_is_only_added_to(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"torn")
    with results_file(str(path)) as (_, results):
        assert results.recorded.torn
        results.append("a", WELL)
    assert path.read_bytes().startswith(b"torn\n{")


def test_two_runs_over_one_output_are_refused(tmp_path: Path) -> None:
    """Both would pay for every call."""
    path = tmp_path / "out"
    with results_file(str(path)), pytest.raises(CannotStart, match="another run"):
        with results_file(str(path)):
            pass


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with results_file(str(tmp_path / "out")) as (_, results):
        results.append("a", WELL)


@pytest.mark.parametrize("path", ["missing/out", "."])
def test_a_path_that_cannot_be_written_is_told(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotStart, match="cannot write"), results_file(path):
        pass


class Refusal(Exception):
    """Looks as the SDK's errors do."""

    def __init__(self, status_code: int, body: Any, request_id: Any = None) -> None:
        super().__init__("words")
        self.status_code = status_code
        self.body = body
        self.request_id = request_id


def api_body(kind: str, code: Any = None) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "details": {"error_code": code}}}


def test_the_words_of_the_api_are_kept_as_they_are() -> None:
    body = api_body("overloaded_error")
    assert outcomes.errored(Refusal(529, body)) == {"type": "errored", "error": body}


@pytest.mark.parametrize("body", [None, "<html>", {"error": "text"}, {}])
def test_a_refusal_in_another_shape_is_told_in_ours(body: Any) -> None:
    result = outcomes.errored(Refusal(502, body, "req_1"))
    assert outcomes.kind(result) == "Refusal"
    assert result["error"]["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (Refusal(401, api_body("authentication_error")), True),
        (Refusal(402, api_body("billing_error")), True),
        (Refusal(402, "", "req_1"), True),
        (Refusal(402, None), False),
        (Refusal(401, "<html>", "req_1"), False),
        (Refusal(401, {"message": "Unauthorized"}), False),
        (Refusal(429, api_body("rate_limit_error", "enforced_spend_limit_reached")), True),
        (Refusal(400, api_body("invalid_request_error", "organization_on_hold")), True),
        (Refusal(429, api_body("rate_limit_error")), False),
        (Refusal(400, {"error": {"details": None}}), False),
        (ValueError("x"), False),
    ],
)
def test_only_trouble_of_the_whole_account_stops_a_run(error: Exception, stops: bool) -> None:
    assert (outcomes.account_trouble(error) is not None) is stops
