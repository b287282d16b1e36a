"""Batches on the fake server, as the official SDK and as plain requests meet them."""

from __future__ import annotations

import anthropic
import pytest
import requests

from claude_throttle.testing import FakeClaude, ManualClock, Reply
from tests.support.fake_http import HEADERS, ask, body
from tests.support.needs import needs


def made(*names):
    return [{"custom_id": name, "params": body(f"prompt {name}")} for name in names]


def post(server, requests_, headers=HEADERS):
    url = server.url + "/v1/messages/batches"
    return requests.post(url, json={"requests": requests_}, headers=headers, timeout=5)


def get(server, *path, **query):
    url = "/".join([server.url + "/v1/messages/batches", *path])
    return requests.get(url, params=query, headers=HEADERS, timeout=5)


def sdk_client(server):
    """To be closed: a socket that is left would be complained of in some later test."""
    return anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0)


@needs("batches")
def test_the_official_sdk_makes_one_and_reads_its_results():
    """Its own types, its own way by results_url; in another order than they were sent."""
    clock = ManualClock()
    with FakeClaude(clock=clock) as server, sdk_client(server) as client:
        server.batches.seconds = 60
        server.batches.end({"x1": "errored", "x2": "expired"})
        batch = client.messages.batches.create(requests=made(*(f"x{n}" for n in range(30))))
        assert batch.processing_status == "in_progress"
        assert (batch.request_counts.processing, batch.results_url) == (30, None)
        clock.advance(61)
        batch = client.messages.batches.retrieve(batch.id)
        assert batch.processing_status == "ended"
        assert (batch.request_counts.succeeded, batch.request_counts.errored) == (28, 1)
        results = list(client.messages.batches.results(batch.id))
        names = [result.custom_id for result in results]
        assert sorted(names) == sorted(f"x{n}" for n in range(30))
        assert names != [f"x{n}" for n in range(30)]
        by_name = {result.custom_id: result.result for result in results}
        assert by_name["x0"].message.content[0].text == "echo: prompt x0"
        assert by_name["x1"].error.error.type == "overloaded_error"
        assert by_name["x2"].type == "expired"
        assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
        with pytest.raises(anthropic.NotFoundError):
            client.messages.batches.retrieve(batch.id)


@needs("batches")
def test_a_list_has_pages_and_begins_with_the_newest():
    """As the SDK's iterator reads it."""
    with FakeClaude() as server, sdk_client(server) as client:
        ids = [client.messages.batches.create(requests=made("a")).id for _ in range(5)]
        assert [batch.id for batch in client.messages.batches.list(limit=2)] == ids[::-1]
        assert get(server, limit=0).status_code == 400


@pytest.mark.parametrize(
    ("requests_", "words"),
    [
        ([], "at least 1 item"),
        ("text", "at least 1 item"),
        (made("a", "b", "a"), "requests.2.custom_id: a is not unique"),
        (made("a", "two words"), "requests.1.custom_id: String should match"),
        (made("x" * 65), "custom_id: String should match"),
        ([{"custom_id": "a"}], "requests.0.params: Field required"),
        (made("a", "b", "c", "d"), "at most 3 items, not 4"),
    ],
)
def test_what_is_no_batch_is_refused_whole(requests_, words):
    """Nothing is created."""
    with FakeClaude() as server:
        server.batches.most_requests = 3
        answer = post(server, requests_)
        assert (answer.status_code, server.batches.created) == (400, [])
        assert words in answer.json()["error"]["message"]


def test_a_request_that_could_only_be_refused_errors_by_itself():
    """Parameters are looked at when its turn comes."""
    with FakeClaude() as server:
        name = post(server, [{"custom_id": "a", "params": {"model": "m"}}]).json()["id"]
        result = get(server, name, "results").json()["result"]
    assert (result["type"], result["error"]["error"]["type"]) == (
        "errored",
        "invalid_request_error",
    )


def test_its_requests_have_a_quota_and_a_log_of_their_own():
    """Messages take nothing from it, and are not found in its log."""
    clock = ManualClock()
    with FakeClaude(rpm=1, clock=clock) as server:
        server.batches.limits(rpm=2, burst=2)
        assert ask(server).status_code == 200
        answers = [get(server) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[1].headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert answers[2].headers["retry-after"] == "30"
        clock.advance(30)
        assert get(server).status_code == 200
        assert len(server.arrivals) == 1
        assert [a.status for a in server.batches.arrivals] == [200, 200, 429, 200]
        assert HEADERS["x-api-key"] not in str(server.batches.arrivals)


def test_a_body_of_more_than_32_mb_is_a_batch_and_no_message():
    """The edge takes 256 MB here."""
    with FakeClaude() as server:
        large = [{"custom_id": "a", "params": body("x" * 34_000_000)}]
        assert post(server, large).status_code == 200


def test_what_is_scripted_comes_instead_or_afterwards():
    """With carried_out, the batch is made and nobody hears of it."""
    with FakeClaude() as server:
        server.batches.script(Reply(500))
        server.batches.script(Reply(503), carried_out=True)
        assert [post(server, made("a")).status_code for _ in range(3)] == [500, 503, 200]
        assert len(server.batches.created) == 2


def test_there_are_no_results_before_the_end_and_none_without_a_key():
    """Nor is it deleted, nor anything that is not there told."""
    with FakeClaude() as server:
        server.batches.seconds = 60
        name = post(server, made("a")).json()["id"]
        assert get(server, name, "results").status_code == 400
        url = f"{server.url}/v1/messages/batches/{name}"
        assert requests.delete(url, headers=HEADERS, timeout=5).status_code == 400
        assert requests.post(url + "/cancel", headers=HEADERS, timeout=5).status_code == 200
        result = get(server, name, "results").json()["result"]
        assert result == {"type": "canceled"}
        assert get(server, "msgbatch_none").status_code == 404
        assert get(server, name, "other").status_code == 404
        assert post(server, made("a"), headers={}).status_code == 401
