"""What a call will cost, before anybody knows: a guess, corrected by what its model taught."""

from __future__ import annotations

import threading
from collections import deque

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.estimation.calibration import LinearFit, OutputLengths


class _Model:
    """What the answers of one model taught."""

    __slots__ = ("input", "output")

    def __init__(self) -> None:
        self.input = LinearFit()
        self.output = OutputLengths()


class Estimator:
    """Learns, for the models of one lane, what calls really take. Thread-safe."""

    #: Models remembered, of some kB each: callers may make names up. The one that was taught
    #: longest ago goes first.
    MAX_MODELS = 256

    #: Answers read together, at most, and as a share of those read before: one by one, each after
    #: a wait, they take three times as long.
    READ_TOGETHER = 4
    READ_SHARE = 0.05

    def __init__(self) -> None:
        #: Answers that have not taught anything yet. Its append is atomic.
        self._unread: deque[tuple[str, float, float, int, float]] = deque()
        self._read = 0
        # Guards _models and all that is in it. Held for arithmetic only.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._models: dict[str, _Model] = {}
        self._unknown = _Model()

    def cost(self, model: str, estimated_input: float, max_tokens: int) -> Cost:
        """The cost to book for a call: what is to be expected, without a margin."""
        with self._lock:
            known = self._models.get(model, self._unknown)
            return Cost(1.0, known.input.at(estimated_input), known.output.expected(max_tokens))

    def learn(
        self,
        model: str,
        estimated_input: float,
        input_tokens: float,
        max_tokens: int,
        output_tokens: float,
    ) -> None:
        """What an answered call really took. The first count at once, later ones a few together."""
        self._unread.append((model, estimated_input, input_tokens, max_tokens, output_tokens))
        unread = len(self._unread)
        if unread >= self.READ_TOGETHER or unread > self._read * self.READ_SHARE:
            with self._lock:
                self._read_all_locked()

    def _read_all_locked(self) -> None:
        while self._unread:
            model, estimated_input, input_tokens, max_tokens, output_tokens = self._unread.popleft()
            self._read += 1
            known = self._models.pop(model, None) or _Model()
            self._models[model] = known  # now the last
            if len(self._models) > self.MAX_MODELS:
                del self._models[next(iter(self._models))]
            if input_tokens > 0:  # else all of it came from the cache: says nothing about sizes
                known.input.learn(estimated_input, input_tokens)
            known.output.learn(max_tokens, output_tokens)
