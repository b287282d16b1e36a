"""What a call will cost, before that is known: an estimate, corrected by its model's answers.

Input: a line, ``ratio * estimate + constant``. A ratio alone is wrong as soon as sizes change,
since the server adds a system prompt of its own to some calls. Output: the share of ``max_tokens``
that gets used, apart for each order of ``max_tokens``, since callers choose it by kind of work.
Of a request with a cache mark, most may come from the prompt cache and count nothing: the share
that counts is learned apart, from such requests only.

An estimate that is too low means refusals, one that is too high means quota unused until the call
is settled; so the aim is the expected value, without a margin.

There is no public tokenizer for Claude. So :func:`estimate_input_tokens` need only be in proportion
to what a request holds: the calibration finds the factor and what the server adds to each call.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from claude_throttle.core.domain.cost import Cost

#: UTF-8 bytes of text per token. English: 3.60 since Opus 4.7, 4.33 before (measured by
#: count_tokens, 2026-04). Other scripts have more bytes to a character and fewer characters to a
#: token, which about cancels out: .83 tokens for a Chinese character, .56 for a Cyrillic one.
BYTES_PER_TOKEN = 3.6

#: Tokens of framing around each message: a single letter counts as 8, with the framing of the
#: request (measured by count_tokens, 2026-02).
MESSAGE_TOKENS = 4

#: What is read as JSON: schemas, and servers whose tools are listed to the model.
_JSON_PARAMETERS = frozenset({"tools", "mcp_servers", "output_config"})

#: What a block has for the program, not for the model.
_UNREAD = frozenset(
    {"type", "id", "tool_use_id", "cache_control", "citations", "signature", "is_error"}
)

#: Tokens of the system prompt that comes with tools, and where a tool must be used; by a part of
#: the model's name (tool use page, 2026-08).
_TOOL_PROMPTS = {
    "opus-4-7": (675, 804),
    "sonnet-5": (354, 474),
    "-4-6": (497, 589),
    "-4-5": (496, 588),
    "-4-1": (313, 315),
    "-4-0": (313, 315),
    "-4-2025": (313, 315),
    "3-5-haiku": (264, 355),
}

#: Those of all other models: Opus 4.8; Opus 5 has 4 less.
_TOOL_PROMPT = (290, 410)

# Compact, as on the wire. It runs in C, where a walk through a schema would take longer.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

# Half of what NamedTuple's own constructor takes; one in each call.
_new = tuple.__new__

#: What is kept of the past with each new call: about the last forty count.
MEMORY = 0.975


def estimate_input_tokens(params: Mapping[str, Any]) -> float:
    """Input tokens of a Messages request, at least one; not yet calibrated."""
    model = params.get("model", "")
    total = 0.0
    for message in params["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        total += MESSAGE_TOKENS + _content_tokens(content, model)
    if "system" in params:
        total += _content_tokens(params["system"], model)
    for name in _JSON_PARAMETERS.intersection(params):
        total += _json_tokens(params[name])
    if params.get("tools"):
        total += _tool_prompt_tokens(model, params.get("tool_choice"))
    return total if total > 1.0 else 1.0


#: What a JSON body has where part of the prompt is marked for the prompt cache; the quotes of a
#: text that says the same are escaped.
CACHE_MARK = b'"cache_control":{'


def has_cache_mark(params: Any) -> bool:
    """Whether a Messages request asks for the prompt cache, wherever in it the mark stands."""
    if isinstance(params, dict):
        if isinstance(params.get("cache_control"), dict):
            return True
        params = params.values()
    # Most of what a request holds is text, which is not worth a call each, nor a generator.
    for part in params:  # noqa: SIM110
        if isinstance(part, (dict, list, tuple)) and has_cache_mark(part):
            return True
    return False


def _text_tokens(text: str) -> float:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size / BYTES_PER_TOKEN


def _content_tokens(content: Any, model: str) -> float:
    if isinstance(content, str):
        return _text_tokens(content)
    if isinstance(content, (list, tuple)):
        return sum(_block_tokens(block, model) for block in content)
    return _block_tokens(content, model)


def _block_tokens(block: Any, model: str) -> float:
    """Tokens of one content block; fields that the model does not read count nothing.

    Blocks of an unknown type are counted by the text in them, so that a new type is not free.
    """
    if not isinstance(block, dict):
        return _text_tokens(block) if isinstance(block, str) else 0.0
    if block.get("type") == "image":
        from claude_throttle.core.estimation.media import image_tokens  # most prompts hold none

        return image_tokens(block.get("source"), model)
    return sum(
        _part_tokens(name, part, model) for name, part in block.items() if name not in _UNREAD
    )


def _part_tokens(name: str, part: Any, model: str) -> float:
    if name == "input":
        return _json_tokens(part)
    if name == "source" and isinstance(part, dict):
        return _document_tokens(part, model)
    return _content_tokens(part, model)


def _document_tokens(source: Mapping[str, Any], model: str) -> float:
    """Tokens of a document's source: text as text, a PDF by its pages, a reference as one page.

    What lies behind a URL or a file id is not fetched: submit() makes no request of its own.
    """
    from claude_throttle.core.estimation.media import PAGE_TOKENS, pdf_tokens

    kind, data = source.get("type"), source.get("data")
    if kind == "content":
        return _content_tokens(source.get("content"), model)
    if not isinstance(data, str):
        return float(PAGE_TOKENS)  # behind a URL or a file id
    return _text_tokens(data) if kind == "text" else pdf_tokens(data)


def _json_tokens(value: Any) -> float:
    try:
        return _text_tokens(_encode(value))
    except (TypeError, ValueError, RecursionError):
        return 0.0  # refused where the body is made


def _tool_prompt_tokens(model: str, choice: Any) -> int:
    """Tokens of the system prompt that the server adds when a request has tools."""
    forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    for part, prompts in _TOOL_PROMPTS.items():
        if part in model:
            return prompts[forced]
    return _TOOL_PROMPT[forced]


class LinearFit:
    """A weighted least-squares line through (estimate, count), positive and forgetful.

    Each call weighs ``1 / (estimate + SOFTENING)``, since errors grow with size. That weight also
    makes the fitted counts of the remembered calls add up to the real ones; where a bound bends
    the line, it is scaled until they do again. So the sum is right even where the line is not.
    """

    #: Tokens. Below this size a call's weight stops growing: framing and scatter are alike there.
    SOFTENING = 100.0

    #: How much the belief that estimates are right weighs, as a share of the first answer.
    FAITH = 0.25

    #: How strongly the constant is drawn to zero, in the unit of the weights: as if each line had
    #: seen half a call of 1,000 tokens that says so. It decides while all calls are of one size.
    PULL = 5e-4

    #: The most that one call may weigh, of all that is remembered: otherwise a single huge one
    #: would outweigh the last forty. Half or all of it was worse in simulation, a tenth learned
    #: slowly.
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

    def at(self, estimate: float) -> float:
        """The tokens that the server will probably count for *estimate*."""
        return self.ratio * estimate + self.constant

    def update(self, estimate: float, count: float) -> None:
        """Learn that the server counted *count* tokens where *estimate* was estimated."""
        if self._w:
            remembered = self._wxx + self.SOFTENING * self._wx
            most = max(self.SOFTENING, self.GREATEST_SHARE * remembered)
            keep = self.SHOCK if self._changed(estimate, count) else MEMORY
            self._add(keep, estimate, count, min(1.0, most / estimate))
        else:
            self._add(1.0, estimate, estimate, self.FAITH)
            self._add(1.0, estimate, count, 1.0)
        self._fit()

    def _changed(self, estimate: float, count: float) -> bool:
        """Whether the last few errors point to a change rather than to chance.

        Such a change is another system prompt, or a new tokenizer.
        """
        error = count - self.ratio * estimate - self.constant
        side = 1 if error > 0 else -1
        if abs(error) <= self.TOLERANCE * count:
            self._run = 0
        else:
            self._run = side + (self._run if self._run * side > 0 else 0)
        return abs(self._run) >= self.SUSPICIOUS_RUN

    def _add(self, keep: float, estimate: float, count: float, part: float) -> None:
        """Add one call, of which *part* counts, and *keep* that part of what was there before."""
        weight = part / (estimate + self.SOFTENING)
        x = weight * estimate
        self._w = self._w * keep + weight
        self._wx = self._wx * keep + x
        self._wxx = self._wxx * keep + x * estimate
        self._wy = self._wy * keep + weight * count
        self._wxy = self._wxy * keep + x * count

    def _fit(self) -> None:
        """Solve for ratio and constant, both at least 0, then scale them to the remembered sum.

        Without the bounds, calls of nearly one size could give a negative ratio, by which a larger
        call would be booked as a smaller one.
        """
        w = self._w + self.PULL
        spread = w * self._wxx - self._wx * self._wx
        ratio = max(0.0, (w * self._wxy - self._wx * self._wy) / spread)
        constant = max(0.0, (self._wy - ratio * self._wx) / w)
        # All that is remembered: in estimated tokens, in calls, and in counted tokens.
        estimates = self._wxx + self.SOFTENING * self._wx
        calls = self._wx + self.SOFTENING * self._w
        counts = self._wxy + self.SOFTENING * self._wy
        scale = counts / (ratio * estimates + constant * calls)
        self.ratio, self.constant = ratio * scale, constant * scale


class RatioEstimate:
    """A ratio learned from pairs (part, whole): by sums, so that large calls weigh as they cost.

    *prior* is believed at first, as if a whole of *weight* had shown it. *memory*: what is kept of
    the past with each pair.
    """

    __slots__ = ("_memory", "_part", "_whole", "value")

    def __init__(self, prior: float, weight: float, memory: float = MEMORY) -> None:
        self._part = prior * weight
        self._whole = weight
        self._memory = memory
        self.value = prior

    def update(self, part: float, whole: float) -> None:
        """Learn from one more pair."""
        self._part = self._part * self._memory + part
        self._whole = self._whole * self._memory + whole
        self.value = self._part / self._whole


class OutputLengths:
    """The lengths of answers as shares of ``max_tokens``, apart for each power of two of it."""

    #: Before the first answer: high enough not to overshoot a small quota, and soon forgotten.
    FIRST_SHARE = 0.5

    #: Tokens of ``max_tokens`` that say so.
    FIRST_WEIGHT = 200.0

    #: How much what is known from other sizes weighs, as a share of the first answer of a size.
    FAITH = 0.1

    #: More than any model can write; a larger ``max_tokens`` is booked as this.
    MOST = 2**30

    __slots__ = ("_all", "_by_size")

    def __init__(self) -> None:
        self._all = RatioEstimate(self.FIRST_SHARE, self.FIRST_WEIGHT)
        self._by_size: dict[int, RatioEstimate] = {}

    def expected(self, max_tokens: int) -> float:
        """The mean length of an answer with this ``max_tokens``, in tokens; never more than it."""
        whole = max_tokens if max_tokens < self.MOST else self.MOST
        size = whole.bit_length()
        return whole * (self._by_size.get(size) or self._nearest(size)).value

    def update(self, max_tokens: int, count: float) -> None:
        """Learn that *count* tokens were generated by a call with this ``max_tokens``."""
        whole = min(max_tokens, self.MOST)
        count = min(count, whole)
        size = whole.bit_length()
        share = self._by_size.get(size)
        if share is None:
            share = RatioEstimate(self._nearest(size).value, whole * self.FAITH)
            self._by_size[size] = share
        share.update(count, whole)
        self._all.update(count, whole)

    def _nearest(self, size: int) -> RatioEstimate:
        """The share of the next smaller or larger size; if neither is known, that of all sizes."""
        known = self._by_size
        return known.get(size - 1) or known.get(size + 1) or self._all


class _Model:
    """The line and the lengths learned from the answers of one model."""

    #: What is kept of the past with each answer that tells of the cache: little, because a cache
    #: that was written or lost changes all answers after it.
    CACHE_MEMORY = 0.5

    __slots__ = ("counted_shares", "input", "output")

    def __init__(self) -> None:
        self.input = LinearFit()
        self.output = OutputLengths()
        #: What counts of the whole input: of requests that the API counted, and of those with a
        #: cache mark. All of it, until an answer tells.
        self.counted_shares = (
            RatioEstimate(1.0, 1.0, self.CACHE_MEMORY),
            RatioEstimate(1.0, 1.0, self.CACHE_MEMORY),
        )


class Estimator:
    """Learns, for the models of one lane, what calls really take. Thread-safe.

    :meth:`cost` is asked at each submit, and again when ``version`` has grown while a call waited.
    Holds numbers and names of models, never a prompt or an answer; memory is bounded by
    :data:`MAX_MODELS`.
    """

    #: Models remembered, of some kB each: callers may make names up. The one that was taught
    #: longest ago goes first.
    MAX_MODELS = 256

    #: Answers read together, at most, and as a share of those read before: one by one, each after
    #: a wait, they take three times as long.
    READ_TOGETHER = 4
    READ_SHARE = 0.05

    def __init__(self, reserves_all: bool = False) -> None:
        #: The server reserves all of ``max_tokens`` and all input, and gives back at the end what
        #: was not generated or came from the cache. So does a cost; nothing less may leave.
        self.reserves_all = reserves_all
        #: Answers that have not taught anything yet. Its append is atomic.
        self._unread: deque[tuple[str, float, float, int, float, float, bool]] = deque()
        #: How many have: it grows whenever costs may be estimated otherwise than before.
        self.version = 0
        # Guards _models and all that is in it. Held for arithmetic only.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._models: dict[str, _Model] = {}
        self._unknown = _Model()

    def has_learned(self, model: str) -> bool:
        """Whether an answer of *model* has taught anything."""
        with self._lock:
            return model in self._models or any(answer[0] == model for answer in self._unread)

    def cost(
        self,
        model: str,
        estimated_input: float,
        max_tokens: int,
        cache_marked: bool = False,
        is_counted: bool = False,
    ) -> Cost:
        """The cost to book for a call: what is to be expected, without a margin.

        *cache_marked*: it asks for the prompt cache. *is_counted*: the API counted its input, of
        which it does not say what comes from the cache.
        """
        with self._lock:
            known = self._models.get(model, self._unknown)
            line = known.input
            tokens = estimated_input
            if not is_counted:
                tokens = line.ratio * estimated_input + line.constant
            if self.reserves_all:
                return _new(Cost, (1.0, tokens, float(max_tokens)))
            if cache_marked or is_counted:
                tokens *= known.counted_shares[cache_marked].value
            return _new(Cost, (1.0, tokens, known.output.expected(max_tokens)))

    def learn(
        self,
        model: str,
        estimated_input: float,
        input_tokens: float,
        max_tokens: int,
        output_tokens: float,
        whole_input: float = 0.0,
        cache_marked: bool = False,
    ) -> None:
        """Learn what an answered call really took: *input_tokens* are those that count.

        *whole_input*: with what came from the cache, if that is known. At first each count is read
        at once, because the estimates before it are the worst; later ones are read a few together.
        A call whose input came from the cache altogether teaches output only.
        """
        size = max_tokens, output_tokens, whole_input, cache_marked
        self._unread.append((model, estimated_input, input_tokens, *size))
        unread = len(self._unread)
        if unread >= self.READ_TOGETHER or unread > self.version * self.READ_SHARE:
            with self._lock:
                self._read_all_locked()

    def _read_all_locked(self) -> None:
        while self._unread:
            model, estimate, counted, max_tokens, output_tokens, whole, marked = (
                self._unread.popleft()
            )
            known = self._models.pop(model, None) or _Model()
            self._models[model] = known  # now the last
            if len(self._models) > self.MAX_MODELS:
                del self._models[next(iter(self._models))]
            if whole > 0:
                known.counted_shares[marked].update(counted, whole)
            size = whole if marked else counted
            if size > 0:  # else all of it came from the cache: says nothing about sizes
                known.input.update(estimate, size)
            known.output.update(max_tokens, output_tokens)
            self.version += 1
