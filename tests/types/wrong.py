"""Uses that type checkers must find, one line each; nothing here is run.

``(new)`` marks those that no checker can find where an old SDK lacks a type.
"""

from __future__ import annotations

from typing import Any, TypedDict

from anthropic.types import Message, MessageParam

from claude_throttle import CallOptions, MapOptions, MessageStream, Throttler
from claude_throttle.contrib.celery import ClaudeTask
from claude_throttle.contrib.django import throttler as django_throttler
from claude_throttle.contrib.flask import current_throttler

t = Throttler(rpm=50)
M = "claude-haiku-4-5"
ASK: list[MessageParam] = [{"role": "user", "content": "Hello"}]


class Asked(TypedDict):
    """What every call here has."""

    model: str
    max_tokens: int
    messages: list[MessageParam]


OPTIONS: Asked = {"model": M, "max_tokens": 10, "messages": ASK}
ROWS: list[CallOptions] = []


def misspelt() -> None:
    t.call(model=M, max_tokens=10, mesages=ASK)  # wrong
    t.submit(model=M, max_token=10, messages=ASK)  # wrong
    t.stream(modell=M, max_tokens=10, messages=ASK)  # wrong
    t.call(sytem="Be brief.", **OPTIONS)  # wrong
    t.call(tiemout=10, **OPTIONS)  # wrong
    t.submit(extra_header={"a": "b"}, **OPTIONS)  # wrong
    t.call(stop_sequence=["END"], **OPTIONS)  # wrong


def missing() -> None:
    t.call(model=M, max_tokens=10)  # wrong
    t.submit(max_tokens=10, messages=ASK)  # wrong
    t.stream(model=M, messages=ASK)  # wrong
    t.permit(input_tokens=10)  # wrong
    t.call("Hello")  # wrong
    t.submit(OPTIONS)  # wrong


def of_a_wrong_type(text: str, number: int) -> None:
    t.call(model=M, max_tokens="200", messages=ASK)  # wrong
    t.submit(model=M, max_tokens=1.5, messages=ASK)  # wrong
    t.call(timeout="10", **OPTIONS)  # wrong
    t.stream(timeout="10", **OPTIONS)  # wrong
    t.call(model=number, max_tokens=10, messages=ASK)  # wrong
    t.call(model=M, max_tokens=10, messages="Hello")  # wrong (new)
    t.call(model=M, max_tokens=10, messages=["Hello"])  # wrong (new)
    t.call(model=M, max_tokens=10, messages={"role": "user", "content": "Hello"})  # wrong (new)
    t.call(temperature="0.5", **OPTIONS)  # wrong
    t.call(top_k=0.5, **OPTIONS)  # wrong
    t.call(stop_sequences="END", **OPTIONS)  # wrong
    t.call(system=5, **OPTIONS)  # wrong
    t.call(tools={"name": "x"}, **OPTIONS)  # wrong (new)
    t.call(metadata="u", **OPTIONS)  # wrong
    t.call(priority="urgent", **OPTIONS)  # wrong
    t.call(priority=text, **OPTIONS)  # wrong
    t.call(priority=0.5, **OPTIONS)  # wrong
    t.call(tenant=5, **OPTIONS)  # wrong
    t.submit(block="yes", **OPTIONS)  # wrong
    t.submit(raw="yes", **OPTIONS)  # wrong
    t.call(extra_headers="a: b", **OPTIONS)  # wrong
    t.call(betas="context-1m", **OPTIONS)  # wrong
    t.call(stream=True, **OPTIONS)  # wrong
    t.call(api_key="k", **OPTIONS)  # wrong
    t.call(max_retries=3, **OPTIONS)  # wrong
    t.permit(model=M, max_tokens="10")  # wrong
    t.estimate_wait(model=M, max_tokens="10", messages=ASK)  # wrong


def inside_a_request() -> None:
    t.call(model=M, max_tokens=10, messages=[{"role": "usr", "content": "Hello"}])  # wrong (new)
    t.call(model=M, max_tokens=10, messages=[{"role": "user", "text": "Hello"}])  # wrong (new)
    t.call(model=M, max_tokens=10, messages=[{"role": "user", "content": 5}])  # wrong (new)
    t.call(service_tier="fast", **OPTIONS)  # wrong
    t.call(thinking={"type": "on"}, **OPTIONS)  # wrong (new)
    t.call(tool_choice="auto", **OPTIONS)  # wrong (new)


def in_a_map_or_a_batch() -> None:
    t.map([{"model": M, "max_tokens": "10", "messages": ASK}])  # wrong
    t.map([{"model": M, "max_tokens": 10, "mesages": ASK}])  # wrong
    t.map(["Hello"])  # wrong
    t.map(ROWS, lookahead=5)  # wrong
    t.map(ROWS, timeout="10")  # wrong
    t.batches.submit([{"model": M, "max_tokens": "10", "messages": ASK}])  # wrong (new)
    t.batches.submit([{"custom_id": 5, "params": OPTIONS}])  # wrong (new)
    t.batches.submit([("a", {"model": M, "max_tokens": 10})])  # wrong (new)
    t.batches.submit(ROWS, timeout="10")  # wrong


def what_comes_back(stream: MessageStream) -> None:
    print(t.call(raw=True, **OPTIONS).content)  # wrong
    print(t.call(**OPTIONS)["content"])  # wrong
    print(t.submit(**OPTIONS).content)  # wrong
    print(t.submit(**OPTIONS).result().text)  # wrong
    for event in stream:
        print(event["type"])  # wrong (new)
    print(stream.get_final_message()["content"])  # wrong
    for message in t.map(ROWS):
        print(message.text)  # wrong
    for answer in t.map(ROWS, return_exceptions=True):
        print(answer.content)  # wrong


def in_frameworks(task: ClaudeTask) -> None:
    django_throttler.call(timeout="10", **OPTIONS)  # wrong
    current_throttler.call(model=M, max_tokens=10, mesages=ASK)  # wrong
    task.ask_claude(model=M, max_tokens="10", messages=ASK)  # wrong


def annotated() -> tuple[Any, ...]:
    request: CallOptions = {"model": M, "max_tokens": 10}  # wrong
    row: MapOptions = {"max_token": 10}  # wrong
    answer: Message = t.call(raw=True, **OPTIONS)  # wrong
    return request, row, answer
