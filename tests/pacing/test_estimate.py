"""What a call will cost, before anybody knows: per model, bounded, from many threads."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.estimation.estimator import Estimator

MODEL = "claude-opus-5"

answers = st.tuples(
    st.floats(1.0, 1e7),  # guess
    st.integers(0, 10**7),  # input tokens
    st.integers(1, 10**6),  # max_tokens
    st.integers(0, 10**6),  # output tokens
)


def taught(history, model=MODEL):
    estimator = Estimator()
    for answer in history:
        estimator.learn(model, *answer)
    return estimator


def test_the_first_estimate_is_the_guess_and_half_of_max_tokens():
    """High enough not to overshoot a small quota."""
    assert Estimator().cost(MODEL, 300.0, 1000) == (1.0, 300.0, 500.0)


def test_estimates_follow_what_the_server_counts():
    """After forty answers with a tenth of max_tokens, a tenth is booked."""
    cost = taught([(1000.0, 1500, 1000, 100)] * 40).cost(MODEL, 1000.0, 1000)
    assert cost.input_tokens == pytest.approx(1500, rel=0.01)
    assert cost.output_tokens == pytest.approx(100, rel=0.02)


def test_models_are_learned_apart():
    """They share a quota, not a tokenizer."""
    estimator = taught([(1000.0, 1500, 1000, 100)] * 40)
    assert estimator.cost("claude-opus-4-6", 1000.0, 1000) == (1.0, 1000.0, 500.0)


def test_an_answer_without_input_tokens_teaches_nothing_about_input():
    """All of it came from the cache; the size of the text says nothing then."""
    cost = taught([(1000.0, 0, 1000, 0)] * 100).cost(MODEL, 1000.0, 1000)
    assert cost.input_tokens == 1000.0
    assert 0 <= cost.output_tokens < 50


@given(st.lists(answers, max_size=60), st.floats(1.0, 1e7), st.integers(1, 10**6))
def test_whatever_was_learned_estimates_make_sense(history, guess, max_tokens):
    """Input above zero; output from zero to max_tokens, never beyond."""
    requests, tokens, output = taught(history).cost(MODEL, guess, max_tokens)
    assert requests == 1.0
    assert tokens > 0.0
    assert 0.0 <= output <= max_tokens


@given(st.lists(st.tuples(answers, st.integers(0, 10**6)), max_size=60), st.integers(1, 10**6))
def test_longer_answers_never_lower_an_estimate(pairs, max_tokens):
    """The same calls, each answered with more: as much or more is booked."""
    less = [answer for answer, _ in pairs]
    more = [(*answer[:3], answer[3] + extra) for answer, extra in pairs]
    low = taught(less).cost(MODEL, 1.0, max_tokens).output_tokens
    assert taught(more).cost(MODEL, 1.0, max_tokens).output_tokens >= low * (1 - 1e-9)


def test_made_up_model_names_are_forgotten():
    """The one taught longest ago goes first; one that is used stays."""
    estimator = taught([(1000.0, 1500, 1000, 100)] * 40)
    for number in range(3 * Estimator.MAX_MODELS):
        estimator.learn(f"made-up-{number}", 100.0, 100, 100, 10)
        estimator.learn(MODEL, 1000.0, 1500, 1000, 100)
    assert len(estimator._models) == Estimator.MAX_MODELS
    assert estimator.cost("made-up-0", 100.0, 100).output_tokens == 50.0
    assert estimator.cost(MODEL, 1000.0, 1000).input_tokens == pytest.approx(1500, rel=0.01)


def test_asking_remembers_no_model():
    """Only an answer proves that a model exists."""
    estimator = Estimator()
    estimator.cost("made-up", 100.0, 100)
    assert not estimator._models


def test_many_threads_teach_at_once():
    """No answer is lost half-way: all say the same, and that is what comes out."""
    estimator = Estimator()

    def teach():
        for number in range(500):
            estimator.learn(f"model-{number % 3}", 1000.0, 2000, 1000, 250)

    threads = [threading.Thread(target=teach) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        _, tokens, output = estimator.cost(f"model-{number}", 1000.0, 1000)
        assert tokens == pytest.approx(2000, rel=1e-3)
        assert output == pytest.approx(250, rel=1e-3)
