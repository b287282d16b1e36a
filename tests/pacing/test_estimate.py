"""What a call will cost, before anybody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.pacing.estimate import (
    BYTES_PER_TOKEN,
    DOCUMENT_CHARACTERS_PER_TOKEN,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Estimator,
    Share,
    guess_input_tokens,
)


def params(content, **more):
    return {"messages": [{"role": "user", "content": content}], **more}


def guess(content, **more):
    """Without the framing of its one message."""
    return guess_input_tokens(params(content, **more)) - MESSAGE_TOKENS


@given(st.text(max_size=50), st.text(min_size=1, max_size=50))
def test_more_text_is_never_guessed_to_be_less(text, more):
    """And nothing costs less than one token."""
    assert 1.0 <= guess_input_tokens(params(text)) < guess_input_tokens(params(text + more))


def test_text_counts_by_its_bytes():
    """A Chinese character is about a token, an English letter a quarter of one."""
    assert guess("a" * 360) == pytest.approx(100.0)
    assert guess("世" * 120) == pytest.approx(360 / BYTES_PER_TOKEN)
    assert guess("\ud800") > 0  # half a surrogate pair is refused elsewhere; no crash here


def test_blocks_count_their_text_and_their_keys():
    """A block's keys are sent, too; its type costs nothing."""
    block = {"type": "text", "text": "a" * 32}
    assert guess([block]) == pytest.approx(36 / BYTES_PER_TOKEN)
    assert guess([block, block]) == pytest.approx(2 * guess([block]))


@pytest.mark.parametrize("name", ["system", "tools", "mcp_servers"])
def test_what_else_is_read_as_input_counts(name):
    """System prompt, tools and MCP servers; other parameters do not."""
    assert guess("", **{name: [{"description": "x" * 349}]}) == pytest.approx(100.0)
    assert guess("", stop_sequences=["x" * 360], metadata={"user_id": "x" * 360}) == 0.0


def test_an_image_costs_what_it_is_scaled_to():
    """Not what its base64 weighs; a URL costs the same."""
    for source in ({"type": "base64", "data": "A" * 10**6}, {"type": "url", "url": "https://x"}):
        assert guess([{"type": "image", "source": source}]) == IMAGE_TOKENS


def test_a_document_costs_by_its_size():
    """Base64 by a coarse measure; plain text by its text."""
    pdf = {"type": "document", "source": {"type": "base64", "data": "A" * 80_000}}
    assert guess([pdf]) == 80_000 / DOCUMENT_CHARACTERS_PER_TOKEN
    plain = {"type": "document", "source": {"type": "text", "data": "a" * 36_000}}
    assert guess([plain]) == pytest.approx(10_000, rel=0.01)
    assert guess([{"type": "document", "source": {"type": "url", "url": "u"}}]) == IMAGE_TOKENS


def test_a_document_made_of_blocks_costs_its_text():
    """Custom content is text like any other."""
    source = {"type": "content", "content": [{"type": "text", "text": "a" * 360_000}]}
    assert guess([{"type": "document", "source": source}]) == pytest.approx(100_000, rel=0.01)


@pytest.mark.parametrize("odd", [None, 5, True, b"bytes", object()])
def test_what_is_no_text_costs_nothing_and_breaks_nothing(odd):
    """The API will say what is wrong with it."""
    assert guess(odd) == 0.0
    assert guess_input_tokens({"messages": [odd]}) == MESSAGE_TOKENS
    assert guess([{"type": "x", "y": odd}]) == pytest.approx(1 / BYTES_PER_TOKEN)


def test_the_first_estimate_is_the_guess_and_half_of_max_tokens():
    """High enough not to overshoot a small quota."""
    assert Estimator().cost(300.0, 1000) == (1.0, 300.0, 500.0)


def test_estimates_follow_what_the_server_counts():
    """After forty answers with a tenth of max_tokens, a tenth is booked."""
    estimator = Estimator()
    for _ in range(100):
        estimator.learn(1000.0, 1500, 1000, 100)
    cost = estimator.cost(1000.0, 1000)
    assert cost.input_tokens == pytest.approx(1500, rel=0.05)
    assert cost.output_tokens == pytest.approx(100, rel=0.05)


def test_an_answer_without_input_tokens_teaches_nothing_about_input():
    """All of it came from the cache; the size of the text says nothing then."""
    estimator = Estimator()
    for _ in range(100):
        estimator.learn(1000.0, 0, 1000, 0)
    cost = estimator.cost(1000.0, 1000)
    assert cost.input_tokens == 1000.0
    assert 0 <= cost.output_tokens < 50


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 1e6)), max_size=50), st.floats(0.1, 1)
)
def test_a_share_stays_among_what_was_seen(pairs, prior):
    """Never below the least ratio seen, never above the greatest; the prior is one of them."""
    share = Share(prior, weight=200.0)
    for ratio, whole in pairs:
        share.learn(ratio * whole, whole)
    ratios = [prior, *(ratio for ratio, _ in pairs)]
    assert min(ratios) - 1e-9 <= share.value <= max(ratios) + 1e-9


def test_large_calls_weigh_as_they_cost():
    """The sum of the estimates is what has to be right, not each of them."""
    share = Share(1.0, weight=1e-9)
    share.learn(10.0, 1000.0)
    share.learn(10.0, 10.0)
    assert share.value == pytest.approx(20 / 1010, rel=0.05)
