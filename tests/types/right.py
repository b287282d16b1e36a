"""Uses that type checkers must accept, one function each; nothing here is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, TypedDict, Union

import anthropic
import httpx2
from anthropic import NOT_GIVEN
from anthropic.types import Message, MessageParam, TextBlockParam
from anthropic.types.beta import BetaMessageParam
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.messages import batch_create_params
from typing_extensions import assert_type

from claude_throttle import (
    BatchHandle,
    CallOptions,
    MapOptions,
    MessageStream,
    Priority,
    Throttler,
)
from claude_throttle.contrib.celery import ClaudeTask
from claude_throttle.contrib.django import throttler as django_throttler
from claude_throttle.contrib.django import throttlers
from claude_throttle.contrib.flask import current_throttler

throttler = Throttler(rpm=50)
MODEL = "claude-haiku-4-5"
ASK: list[MessageParam] = [{"role": "user", "content": "Hello"}]


class Asked(TypedDict):
    """What every call here has."""

    model: str
    max_tokens: int
    messages: list[MessageParam]


OPTIONS: Asked = {"model": MODEL, "max_tokens": 10, "messages": ASK}
PLAIN: dict[str, Any] = {"model": MODEL, "max_tokens": 10, "messages": ASK}
JsonDict = dict[str, Any]


def a_dict_in_a_list(question: str) -> str:
    message = throttler.call(
        model=MODEL, max_tokens=10, messages=[{"role": "user", "content": question}]
    )
    return "".join(block.text for block in message.content if block.type == "text")


def blocks_in_a_dict(data: str) -> Message:
    return throttler.call(
        model=MODEL,
        max_tokens=10,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": data},
                    },
                ],
            },
            {"role": "assistant", "content": "It is"},
        ],
    )


def typed_messages() -> None:
    assert_type(throttler.call(model=MODEL, max_tokens=10, messages=ASK), Message)


def a_tool_loop(messages: list[MessageParam]) -> Message:
    message = throttler.call(model=MODEL, max_tokens=10, messages=messages)
    messages.append({"role": "assistant", "content": message.content})
    results = [block.id for block in message.content if block.type == "tool_use"]
    messages.append(
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": name, "content": "42"} for name in results
            ],
        }
    )
    return throttler.call(model=MODEL, max_tokens=10, messages=messages)


def blocks_of_an_answer_inline(message: Message) -> Message:
    return throttler.call(
        model=MODEL,
        max_tokens=10,
        messages=[*ASK, {"role": "assistant", "content": message.content}],
    )


def tools_inline() -> Message:
    return throttler.call(
        model=MODEL,
        max_tokens=10,
        messages=ASK,
        tools=[
            {
                "name": "weather",
                "description": "Of a city.",
                "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        ],
        tool_choice={"type": "auto"},
    )


def a_plain_dict() -> None:
    throttler.call(**PLAIN)
    throttler.submit(**PLAIN)
    throttler.stream(**PLAIN)


def a_plain_dict_and_more(request: dict[str, Any]) -> None:
    throttler.call(**request, timeout=60)
    throttler.call(model=MODEL, **request)


def call_options(request: CallOptions) -> None:
    assert_type(throttler.call(**request), Message)
    assert_type(throttler.call(raw=True, **request), JsonDict)


def parameters_of_the_sdk(params: MessageCreateParamsNonStreaming) -> None:
    assert_type(throttler.call(**params), Message)
    assert_type(throttler.call(**params, timeout=60, tenant="a"), Message)


def a_message_among_messages(message: Message) -> None:
    throttler.call(model=MODEL, max_tokens=10, messages=[*ASK, message], stream=False)


def a_typed_dict() -> None:
    assert_type(throttler.call(**OPTIONS), Message)
    assert_type(throttler.submit(**OPTIONS, priority=1), Future[Message])


def rows_of_any(rows: list[dict[str, Any]]) -> Message:
    return throttler.call(model=MODEL, max_tokens=10, messages=rows)


def raw_is_a_dict() -> None:
    assert_type(throttler.call(raw=True, **OPTIONS), JsonDict)
    assert_type(throttler.call(raw=False, **OPTIONS), Message)
    assert_type(throttler.submit(raw=True, **OPTIONS), Future[JsonDict])


def raw_by_a_flag(raw: bool) -> None:
    assert_type(throttler.call(raw=raw, **OPTIONS), Union[Message, JsonDict])
    future = throttler.submit(raw=raw, **OPTIONS)
    assert_type(future.result(), Union[Message, JsonDict])


def futures(questions: list[str]) -> Iterator[int]:
    pending = [
        throttler.submit(
            model=MODEL, max_tokens=10, messages=[{"role": "user", "content": question}]
        )
        for question in questions
    ]
    for future in as_completed(pending):
        yield future.result(timeout=5).usage.output_tokens


def our_own_options() -> None:
    throttler.call(
        priority=5,
        tenant="a",
        timeout=60,
        block=True,
        extra_headers={"anthropic-beta": "x"},
        **OPTIONS,
    )


def no_time_limit() -> None:
    throttler.call(timeout=None, **OPTIONS)
    throttler.call(timeout=0.5, **OPTIONS)


def priorities() -> None:
    throttler.call(priority=Priority.INTERACTIVE, **OPTIONS)
    throttler.call(priority="interactive", **OPTIONS)
    throttler.call(priority="BATCH", **OPTIONS)


def partials_and_executors(request: dict[str, Any], pool: ThreadPoolExecutor) -> None:
    ask = partial(throttler.call, model=MODEL, max_tokens=10)
    assert_type(ask(messages=ASK), Message)
    pool.submit(partial(throttler.call, **request))
    future = pool.submit(throttler.call, model=MODEL, max_tokens=10, messages=ASK)
    assert_type(future, Future[Message])


def what_the_sdk_takes_beside_parameters() -> None:
    throttler.call(
        betas=["context-1m-2025-08-07"],
        extra_body={"new": 1},
        extra_query={"beta": "true"},
        **OPTIONS,
    )


def left_out_by_a_value(system: str) -> None:
    throttler.call(system=system or NOT_GIVEN, temperature=NOT_GIVEN, **OPTIONS)


def sampling() -> None:
    throttler.call(temperature=0.5, top_p=1, top_k=5, stop_sequences=["END"], **OPTIONS)
    throttler.call(temperature=0, stop_sequences=("END",), **OPTIONS)


def system_prompts(blocks: list[TextBlockParam]) -> None:
    throttler.call(system="Be brief.", **OPTIONS)
    throttler.call(system=blocks, **OPTIONS)
    throttler.call(
        system=[{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}],
        **OPTIONS,
    )


def thinking() -> None:
    throttler.call(thinking={"type": "enabled", "budget_tokens": 1024}, **OPTIONS)
    throttler.call(thinking={"type": "adaptive"}, **OPTIONS)


def metadata_and_tier() -> None:
    throttler.call(metadata={"user_id": "u"}, service_tier="auto", speed="fast", **OPTIONS)


def of_the_beta_only() -> None:
    throttler.call(
        mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}],
        container="container_1",
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        betas=("mcp-client-2025-11-20",),
        **OPTIONS,
    )


def structured_output(schema: dict[str, object]) -> None:
    throttler.call(output_config={"format": {"type": "json_schema", "schema": schema}}, **OPTIONS)


def messages_of_the_beta(messages: list[BetaMessageParam]) -> Message:
    return throttler.call(model=MODEL, max_tokens=10, messages=messages)


def a_stream_of_text() -> Iterator[str]:
    with throttler.stream(**OPTIONS) as stream:
        yield from stream.text_stream
        assert_type(stream.get_final_message(), Message)
        assert_type(stream.get_final_text(), str)


def a_stream_of_events() -> Iterator[str]:
    with throttler.stream(model=MODEL, max_tokens=10, messages=ASK) as stream:
        for event in stream:
            if event.type == "text":
                yield event.text + event.snapshot
            elif event.type == "input_json":
                yield event.partial_json
            elif event.type == "content_block_stop":
                yield event.content_block.type
            elif event.type == "message_stop":
                yield event.message.model


def a_raw_stream() -> Iterator[str]:
    with throttler.stream(raw=True, **OPTIONS) as stream:
        for event in stream:
            assert_type(event, JsonDict)
            yield event["type"]
        assert_type(stream.get_final_message(), JsonDict)


def a_stream_as_an_argument(stream: MessageStream) -> Union[str, None]:
    stream.until_done()
    stream.close()
    return stream.request_id or stream.response.headers["request-id"]


def makes_a_stream() -> MessageStream:
    return throttler.stream(stream=True, **OPTIONS)


def a_map(questions: list[str]) -> Iterator[str]:
    requests = (
        MapOptions(messages=[{"role": "user", "content": question}]) for question in questions
    )
    for message in throttler.map(requests, model=MODEL, max_tokens=10, timeout=60):
        assert_type(message, Message)
        yield message.model


def a_map_of_literals() -> None:
    for message in throttler.map(
        [{"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}],
        raw=True,
    ):
        assert_type(message, JsonDict)


def a_map_of_a_generator(questions: list[str]) -> list[Message]:
    return list(
        throttler.map(
            {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": question}]}
            for question in questions
        )
    )


def a_map_of_dicts_of_any(requests: list[dict[str, Any]], more: list[Mapping[str, Any]]) -> None:
    list(throttler.map(requests, look_ahead=5))
    list(throttler.map(more, raw=True))


def a_map_of_call_options(requests: list[CallOptions]) -> Iterator[Message]:
    return throttler.map(requests, priority=Priority.BATCH)


def a_map_with_exceptions(requests: list[CallOptions]) -> None:
    for message in throttler.map(requests, return_exceptions=True):
        assert_type(message, Union[Message, Exception])
        if not isinstance(message, Exception):
            assert_type(message.usage.input_tokens, int)


def a_permit() -> None:
    with throttler.permit(model=MODEL, input_tokens=5, max_tokens=10, timeout=3) as permit:
        permit.settle(headers={})


def a_wait() -> None:
    assert_type(throttler.estimate_wait(**OPTIONS), float)
    ticket, seconds = throttler.line_up(**OPTIONS)
    throttler.line_up(ticket, raw=True, **OPTIONS)
    assert_type(seconds, float)


def a_batch() -> None:
    handle = throttler.batches.submit(
        [
            {"custom_id": "a", "params": {"model": MODEL, "max_tokens": 1, "messages": ASK}},
            {"custom_id": "b", "params": {"model": MODEL, "max_tokens": 1, "messages": ASK}},
        ]
    )
    assert_type(handle, BatchHandle)


def a_batch_of_pairs() -> BatchHandle:
    return throttler.batches.submit(
        [("a", {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]})],
        raw=True,
        timeout=60,
    )


def a_batch_of_parameters(rows: list[dict[str, Any]]) -> None:
    throttler.batches.submit([{"model": MODEL, "max_tokens": 1, "messages": ASK}])
    throttler.batches.submit(rows)
    throttler.batches.submit((str(number), row) for number, row in enumerate(rows))


def batches_of_typed_parameters(
    requests: list[CallOptions], of_the_sdk: list[MessageCreateParamsNonStreaming]
) -> Iterator[Message]:
    throttler.batches.submit(requests)
    throttler.batches.submit(of_the_sdk)
    return throttler.map(of_the_sdk)


def timeouts_of_httpx(timeout: httpx2.Timeout) -> None:
    throttler.call(timeout=timeout, **OPTIONS)
    throttler.call(timeout=NOT_GIVEN, betas=NOT_GIVEN, extra_headers=NOT_GIVEN, **OPTIONS)


def a_batch_as_the_sdk_types_it(
    requests: list[batch_create_params.Request],
) -> None:
    for result in throttler.batches.submit(requests).results():
        assert_type(result.custom_id, str)


def in_django() -> None:
    assert_type(django_throttler.call(**OPTIONS), Message)
    assert_type(throttlers["default"].call(raw=True, **OPTIONS), JsonDict)


def in_flask() -> None:
    assert_type(current_throttler.call(timeout=5, **OPTIONS), Message)


def in_celery(task: ClaudeTask) -> None:
    assert_type(task.ask_claude(raw=True, **OPTIONS), JsonDict)
    task.ask_claude(model=MODEL, max_tokens=10, messages=[{"role": "user", "content": "Hi"}])


def with_a_client() -> anthropic.Anthropic:
    return anthropic.Anthropic(middleware=[throttler.middleware(priority="batch", timeout=5)])


def settings_by_keyword() -> Throttler:
    return Throttler(rpm=50, itpm=30_000, otpm=8_000, timeout=60, max_concurrency=4)
