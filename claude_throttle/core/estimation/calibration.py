"""What the answers teach about a model: how guesses relate to what the server counts.

Input: a line, ``ratio * guess + constant``. A ratio alone is wrong as soon as sizes change, since
the server adds a system prompt of its own to some calls. Output: the share of ``max_tokens`` that
gets used, apart for each order of ``max_tokens``, since callers choose it by kind of work.
"""

from __future__ import annotations

#: What is kept of the past with each new call: about the last forty count.
MEMORY = 0.975


class LinearFit:
    """A weighted least-squares line through (guess, count), positive and forgetful.

    Each call weighs ``1 / (guess + SOFTENING)``, since errors grow with size. That weight also
    makes the fitted counts of the remembered calls add up to the real ones; where a bound bends
    the line, it is scaled until they do again. So the sum is right even where the line is not.
    """

    #: Tokens. Below this size a call's weight stops growing: framing and scatter are alike there.
    SOFTENING = 100.0

    #: How much the belief that guesses are right weighs, of the first answer.
    FAITH = 0.25

    #: How strongly the constant is drawn to zero, in the unit of the weights: as if each line had
    #: seen half a call of 1,000 tokens that says so. It decides while all calls are of one size.
    PULL = 5e-4

    #: The most that one call may weigh, of all that is remembered: a single huge one would else
    #: outweigh the last forty. Half or all of it was worse in simulation, a tenth learned slowly.
    GREATEST_SHARE = 0.25

    #: So many errors to the same side, each of more than TOLERANCE, say that something changed
    #: (by chance alone, at 10 % scatter, once in 500 calls); then only half is remembered.
    SUSPICIOUS_RUN = 6
    TOLERANCE = 0.05
    SHOCK = 0.5

    __slots__ = ("_run", "_w", "_wx", "_wxx", "_wxy", "_wy", "constant", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0
        self.constant = 0.0
        self._run = 0
        self._w = self._wx = self._wxx = self._wy = self._wxy = 0.0

    def at(self, guess: float) -> float:
        """The count to expect."""
        return self.ratio * guess + self.constant

    def learn(self, guess: float, count: float) -> None:
        """What the server counted."""
        if self._w:
            most = max(self.SOFTENING, self.GREATEST_SHARE * self._guesses)
            self._forget(self.SHOCK if self._changed(guess, count) else MEMORY)
            self._add(guess, count, min(1.0, most / guess))
        else:
            self._add(guess, guess, self.FAITH)
            self._add(guess, count, 1.0)
        self._fit()

    def _changed(self, guess: float, count: float) -> bool:
        error = count - self.at(guess)
        side = 1 if error > 0 else -1
        if abs(error) <= self.TOLERANCE * count:
            self._run = 0
        else:
            self._run = side + (self._run if self._run * side > 0 else 0)
        return abs(self._run) >= self.SUSPICIOUS_RUN

    def _forget(self, keep: float) -> None:
        self._w *= keep
        self._wx *= keep
        self._wxx *= keep
        self._wy *= keep
        self._wxy *= keep

    def _add(self, guess: float, count: float, part: float) -> None:
        weight = part / (guess + self.SOFTENING)
        self._w += weight
        self._wx += weight * guess
        self._wxx += weight * guess * guess
        self._wy += weight * count
        self._wxy += weight * guess * count

    @property
    def _guesses(self) -> float:
        """All that is remembered, in guessed tokens."""
        return self._wxx + self.SOFTENING * self._wx

    def _fit(self) -> None:
        w = self._w + self.PULL
        spread = w * self._wxx - self._wx * self._wx
        ratio = max(0.0, (w * self._wxy - self._wx * self._wy) / spread)
        constant = max(0.0, (self._wy - ratio * self._wx) / w)
        calls = self._wx + self.SOFTENING * self._w
        counts = self._wxy + self.SOFTENING * self._wy
        scale = counts / (ratio * self._guesses + constant * calls)
        self.ratio, self.constant = ratio * scale, constant * scale


class RatioEstimate:
    """A ratio learned from pairs (part, whole): by sums, so that large calls weigh as they cost."""

    __slots__ = ("_part", "_whole", "value")

    def __init__(self, prior: float, weight: float) -> None:
        self._part = prior * weight
        self._whole = weight
        self.value = prior

    def learn(self, part: float, whole: float) -> None:
        """One more pair."""
        self._part = self._part * MEMORY + part
        self._whole = self._whole * MEMORY + whole
        self.value = self._part / self._whole


class OutputLengths:
    """How long answers get, as shares of ``max_tokens``, apart for each power of two of it."""

    #: Before the first answer: high enough not to overshoot a small quota, and soon forgotten.
    FIRST_SHARE = 0.5

    #: Tokens of ``max_tokens`` that say so.
    FIRST_WEIGHT = 200.0

    #: How much what is known from other sizes weighs, of the first answer of a size.
    FAITH = 0.1

    #: More than any model can write; a larger ``max_tokens`` is booked as this.
    MOST = 2**30

    __slots__ = ("_all", "_by_size")

    def __init__(self) -> None:
        self._all = RatioEstimate(self.FIRST_SHARE, self.FIRST_WEIGHT)
        self._by_size: dict[int, RatioEstimate] = {}

    def expected(self, max_tokens: int) -> float:
        """The mean; at most *max_tokens*."""
        whole = max_tokens if max_tokens < self.MOST else self.MOST
        return whole * self._known(whole.bit_length()).value

    def learn(self, max_tokens: int, count: float) -> None:
        """How many tokens were generated."""
        whole = min(max_tokens, self.MOST)
        count = min(count, whole)
        size = whole.bit_length()
        share = self._by_size.get(size)
        if share is None:
            share = RatioEstimate(self._known(size).value, whole * self.FAITH)
            self._by_size[size] = share
        share.learn(count, whole)
        self._all.learn(count, whole)

    def _known(self, size: int) -> RatioEstimate:
        """Of this size, else of the next smaller or larger, else of all."""
        known = self._by_size
        return known.get(size) or known.get(size - 1) or known.get(size + 1) or self._all
