"""How guesses relate to what the server counts, and how long answers get."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from claude_throttle.core.estimation.estimator import (
    BYTES_PER_TOKEN,
    LinearFit,
    OutputLengths,
    RatioEstimate,
)

seeds = st.integers(0, 10**9)


class Texts:
    """A model's true tokens: bytes by its own ratio, 10 % scatter, and what the server adds."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.change()
        self.constant = self.random.uniform(0, 400)

    def change(self):
        self.ratio = BYTES_PER_TOKEN / self.random.uniform(2.5, 6.0)

    def calls(self, count, smallest):
        """Sizes spread tenfold, in guessed tokens."""
        for _ in range(count):
            guess = smallest * 10 ** self.random.random()
            scatter = max(0.5, self.random.gauss(1.0, 0.1))
            yield guess, round(guess * self.ratio * scatter + self.constant) + 1


class Sums(NamedTuple):
    """What was booked for some calls, and what they took."""

    booked: float
    took: float

    @property
    def error(self):
        return abs(self.booked / self.took - 1)


def teach(line, calls):
    """As the estimator meets them: each is estimated before it is known."""
    booked = took = 0.0
    for guess, count in calls:
        booked += line.at(guess)
        took += count
        line.update(guess, count)
    return Sums(booked, took)


@given(seeds, st.sampled_from([50, 200, 1000, 10_000, 100_000]))
def test_after_twenty_calls_the_sum_is_right_within_three_percent(seed, smallest):
    """Texts of tenfold spread, from 2.5 to 6 bytes a token, with up to 400 tokens added to each."""
    texts, line = Texts(seed), LinearFit()
    teach(line, texts.calls(20, smallest))
    assert teach(line, texts.calls(200, smallest)).error < 0.03


@given(seeds, st.sampled_from([(50, 1000), (1000, 50), (100, 20_000), (4000, 200)]))
def test_the_sum_stays_right_when_sizes_change(seed, sizes):
    """A ratio alone would book the constant part with each thousand tokens, or not at all."""
    texts, line = Texts(seed), LinearFit()
    teach(line, texts.calls(20, sizes[0]))
    first, second = (teach(line, texts.calls(110, smallest)) for smallest in sizes)
    assert Sums(first.booked + second.booked, first.took + second.took).error < 0.035


def test_a_ratio_alone_would_be_wrong():
    """The figure above is no gift: without the constant, the change of sizes costs ten times it."""
    texts, share = Texts(1), RatioEstimate(1.0, 200.0)
    texts.constant = 400
    for guess, count in texts.calls(40, 50):
        share.update(count, guess)
    calls = list(texts.calls(20, 1000))
    booked = sum(share.value * guess for guess, _ in calls)
    assert booked / sum(count for _, count in calls) > 1.3


@given(seeds)
def test_another_language_is_learned_within_forty_calls(seed):
    """The ratio changes by anything up to 2.4 times; then the sum is right again."""
    texts, line = Texts(seed), LinearFit()
    teach(line, texts.calls(100, 200))
    texts.change()
    teach(line, texts.calls(40, 200))
    assert teach(line, texts.calls(100, 200)).error < 0.05


@given(seeds, st.floats(0.05, 3.0))
def test_one_huge_call_does_not_bend_the_line(seed, ratio):
    """A document of which the guess is far off: the texts after it are still booked as texts."""
    texts, line = Texts(seed), LinearFit()
    teach(line, texts.calls(60, 200))
    line.update(1e6, 1e6 * ratio)
    assert teach(line, texts.calls(40, 200)).error < 0.45
    assert teach(line, texts.calls(100, 200)).error < 0.1


def test_two_sizes_tell_the_constant_from_the_ratio():
    """Small texts and large ones, 300 tokens added to each: both are told, and sizes between."""
    line = LinearFit()
    for _ in range(30):
        line.update(100.0, 450)
        line.update(3000.0, 4800)
    assert line.ratio == pytest.approx(1.5, rel=0.02)
    assert line.constant == pytest.approx(300, rel=0.1)
    assert line.at(1000.0) == pytest.approx(1800, rel=0.02)


def test_one_size_is_taken_for_a_ratio():
    """Nothing tells the constant then; twice the text is taken for about twice the tokens."""
    line = LinearFit()
    for _ in range(30):
        line.update(1000.0, 1500)
    assert line.at(2000.0) == pytest.approx(3000, rel=0.1)


@pytest.mark.parametrize("counts", [(500, 19_000), (9000, 1000)])
def test_where_no_line_fits_the_sum_does(counts):
    """Large calls dearer than in proportion, or cheaper than small ones: no such line is let be."""
    line = LinearFit()
    for _ in range(40):
        line.update(1000.0, counts[0])
        line.update(10_000.0, counts[1])
    assert line.at(1000.0) + line.at(10_000.0) == pytest.approx(sum(counts), rel=0.03)


@given(st.lists(st.tuples(st.floats(1.0, 1e8), st.integers(1, 10**8)), min_size=1, max_size=100))
@example([(1.0, 1), (1e8, 1)] * 20)
@example([(1e8 * 0.7**n, 10**8) for n in range(40)])
def test_the_line_is_positive_and_rises(calls):
    """Whatever is counted: more text never costs less, and no text costs nothing."""
    line = LinearFit()
    for guess, count in calls:
        line.update(guess, count)
        assert line.ratio >= 0.0
        assert line.constant >= 0.0
        assert line.at(1.0) > 0.0


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=60), st.floats(0.2, 5), st.floats(1, 3))
def test_a_hungrier_tokenizer_is_booked_higher(guesses, ratio, more):
    """The same texts, each counted as more: their estimates are as high or higher together."""
    low, high = LinearFit(), LinearFit()
    for guess in guesses:
        low.update(guess, guess * ratio)
        high.update(guess, guess * ratio * more)
    assert sum(map(high.at, guesses)) >= sum(map(low.at, guesses)) * (1 - 1e-6)


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 1e6)), max_size=50), st.floats(0.1, 1)
)
def test_a_share_stays_among_what_was_seen(pairs, prior):
    """Never below the least ratio seen, never above the greatest; the prior is one of them."""
    share = RatioEstimate(prior, weight=200.0)
    for ratio, whole in pairs:
        share.update(ratio * whole, whole)
    ratios = [prior, *(ratio for ratio, _ in pairs)]
    assert min(ratios) - 1e-9 <= share.value <= max(ratios) + 1e-9


def test_large_calls_weigh_as_they_cost():
    """The sum of the estimates is what has to be right, not each of them."""
    share = RatioEstimate(1.0, weight=1e-9)
    share.update(10.0, 1000.0)
    share.update(10.0, 10.0)
    assert share.value == pytest.approx(20 / 1010, rel=0.05)


def test_lengths_are_learned_apart_for_each_size_of_max_tokens():
    """Classifiers with 16 tokens use all of them, essays with 64,000 a few percent."""
    lengths = OutputLengths()
    for _ in range(40):
        lengths.update(16, 15)
        lengths.update(64_000, 800)
    assert lengths.expected(16) == pytest.approx(15, rel=0.01)
    assert lengths.expected(64_000) == pytest.approx(800, rel=0.1)


def test_a_size_never_seen_is_taken_for_its_neighbour_or_for_all():
    """1,500 and 4,000 like 2,048; 64 like everything together, until its own answers come."""
    lengths = OutputLengths()
    for _ in range(60):
        lengths.update(2048, 512)
    assert lengths.expected(1500) == pytest.approx(375, rel=0.02)
    assert lengths.expected(4096) == pytest.approx(1024, rel=0.02)
    assert lengths.expected(64) == pytest.approx(16, rel=0.02)
    lengths.update(64, 64)
    assert lengths.expected(64) > 48


@given(seeds)
def test_the_sum_of_output_estimates_is_right(seed):
    """Lengths of tenfold spread are not foreseen one by one; their sum is, after forty calls."""
    chance, lengths = random.Random(seed), OutputLengths()
    booked = took = 0.0
    for number in range(1000):
        max_tokens = chance.choice([512, 2000, 8192])
        count = round(max_tokens / 20 * 10 ** chance.random())
        if number >= 40:
            booked += lengths.expected(max_tokens)
            took += count
        lengths.update(max_tokens, count)
    assert booked == pytest.approx(took, rel=0.1)


def test_absurd_numbers_are_booked_as_large_ones():
    """What the API will refuse must not break the arithmetic, nor fill the memory."""
    lengths = OutputLengths()
    for power in range(1, 2000):
        lengths.update(10**power, 10**power)
    assert lengths.expected(10**2000) <= OutputLengths.MOST
    assert len(lengths._by_size) < 40
