"""Uses of a throttler that cannot work, each with the line to write instead.

Python's own words for them, such as "'function' object has no attribute 'send'", name neither the
throttler nor the remedy, and come from inside of another library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import wraps
from typing import Any, Callable, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])

#: A whole call.
CALL = (
    'throttler.call(model="claude-haiku-4-5", max_tokens=1_000, '
    'messages=[{"role": "user", "content": "…"}])'
)

_MIDDLEWARE = "anthropic.Anthropic(middleware=[throttler.middleware()])"
_TRANSPORT = "httpx.Client(transport=throttler.transport())"
_SESSION = "session = throttler.session(), or throttler.mount(session) for one that you have"
_PERMIT = "with throttler.permit(model=…, max_tokens=…) as permit: …; permit.settle(response)"
_BATCHES = "throttler.batches.submit(requests).result()"
_END = "throttler.drain(), or throttler.close()"

#: What a throttler has not, and what does it: names of the SDK, of rate limiters and of executors.
_INSTEAD = {
    CALL: "messages beta completions chat create complete completion generate ask query invoke",
    f"{_SESSION}; a call is {CALL}": "send request get post",
    _TRANSPORT: "handle_request handle_async_request",
    _MIDDLEWARE: "handle client http_client",
    _PERMIT: "acquire try_acquire release wait limit limiter slot throttle rate_limit "
    "wait_for_capacity check consume try_consume",
    "future = throttler.submit(model=…, max_tokens=…, messages=[…])": "run execute apply "
    "apply_async submit_call enqueue put add schedule delay",
    "throttler.map(requests)": "gather results as_completed imap starmap run_all submit_all",
    _END: "shutdown stop join flush quit terminate",
    _BATCHES: "batch create_batch",
    "print(throttler.stats())": "usage metrics counters tokens cost info status",
    "print(throttler.limits())": "remaining limit_info quota quotas rate",
}


def instead_of(name: str) -> str:
    """The line to write where a throttler is asked for *name*; "" if none is known."""
    return next((line for line, names in _INSTEAD.items() if name in names.split()), "")


def no_attribute(
    throttler: object, name: str, settings: Collection[str], changeable: Collection[str]
) -> AttributeError:
    """The error for an attribute that a throttler lacks."""
    line = instead_of(name)
    if name in settings:
        change = f", throttler.reconfigure({name}=…)" if name in changeable else ""
        line = f"throttler.settings.{name}{change}"
        if name == "timeout":  # what the SDK asks of its http_client=
            line += f", or http_client={_TRANSPORT}"
    error = AttributeError(
        f"{type(throttler).__name__!r} object has no attribute {name!r}"
        + (f": write {line}" if line else "")
    )
    if not line and hasattr(error, "obj"):  # then Python suggests a similar name, since 3.10
        error.name, error.obj = name, throttler
    return error


def by_name_only(line: str, *asked: str) -> Callable[[Method], Method]:
    """Have a method that was not called, or called by another library, say to write *line*.

    A library asks the method itself for what it asks of the method's result: the names *asked*. A
    bound method looks them up at its function.
    """

    def decorate(method: Method) -> Method:
        name = method.__name__
        text = f"{name} is a method: call it, with all arguments by name, as in {line}"

        @wraps(method)
        def checked(self: Any, *given: Any, **options: Any) -> Any:
            if given:
                raise TypeError(text)
            return method(self, **options)

        def refuse(*_arguments: Any, **_options: Any) -> Any:
            raise TypeError(text)

        for attribute in asked:
            setattr(checked, attribute, refuse)
        return cast("Method", checked)

    return decorate


#: What libraries ask of a transport, an adapter or a middleware.
OF_CLIENTS = ("send", "handle_request", "handle_async_request", "handle", "__enter__")

#: What programs ask of a session.
OF_SESSIONS = ("get", "post", "put", "patch", "delete", "request", "send", "mount", "__enter__")

middleware_is_called = by_name_only(_MIDDLEWARE, *OF_CLIENTS)
adapter_is_called = by_name_only("throttler.mount(session), or session.mount(url, "
                                 "throttler.adapter())", *OF_CLIENTS)  # fmt: skip
transport_is_called = by_name_only(_TRANSPORT, *OF_CLIENTS)
session_is_called = by_name_only(_SESSION, *OF_SESSIONS)
permit_is_called = by_name_only(_PERMIT, "settle", "close", "__enter__")


def positional(method: str, given: tuple[Any, ...]) -> TypeError:
    """The error for the arguments of a call that were *given* without their names."""
    line = CALL.replace("call(", f"{method}(", 1)
    if isinstance(given[0], Mapping):
        line = f"throttler.{method}(**request)"
    return TypeError(f"{method}() takes the parameters of a call by name: {line}")


def settings_by_name(given: Any) -> str:
    """What to write where *given* stands for all settings of a throttler."""
    if isinstance(given, str):
        return "write Throttler(api_key=…)"
    if isinstance(given, (int, float)):
        return "write Throttler(rpm=…)"
    if isinstance(given, dict):
        return "write Throttler(**settings)"
    return f"a client keeps its own settings: throttler = Throttler(), then {_MIDDLEWARE}"
