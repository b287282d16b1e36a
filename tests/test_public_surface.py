"""What is public stays: names, fields, settings, thread names, exit codes.

The snapshot beside this file was taken before the house was rebuilt. A name may be added to it;
one that is taken away or changed breaks somebody's program.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import threading
from pathlib import Path

import pytest

import claude_throttle
from claude_throttle import ConfigurationError, Permit, Priority, Settings, Throttler, cli
from claude_throttle.cli.main import build_parser
from claude_throttle.testing import FakeClaude
from tests.support.calls import ask

SNAPSHOT = json.loads((Path(__file__).parent / "public_surface.json").read_text(encoding="utf-8"))

MODULES = (
    "claude_throttle",
    "claude_throttle.testing",
    "claude_throttle.contrib.celery",
    "claude_throttle.contrib.django",
    "claude_throttle.contrib.flask",
    "pytest_claude_throttle",
)


def names_of(module):
    """``__all__``, or what a module without one defines itself."""
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return sorted(found.__all__)
    return sorted(
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    )


def fields_of(kind):
    """Names in order, and defaults."""
    if hasattr(kind, "_fields"):
        return [*kind._fields, {k: repr(v) for k, v in kind._field_defaults.items()}]
    return [
        f"{field.name}={field.default!r}"
        if field.default is not dataclasses.MISSING
        else field.name
        for field in dataclasses.fields(kind)
    ]


def values():
    """Public named tuples and dataclasses: events, Stats, Usage, Quota, Limits ..."""
    for name in sorted(claude_throttle.__all__):
        found = getattr(claude_throttle, name)
        if inspect.isclass(found) and (
            hasattr(found, "_fields") or dataclasses.is_dataclass(found)
        ):
            yield name, found


def methods_of(kind):
    """Public names and their signatures; constructors only where users call them."""
    shown = {}
    names = (n for n in dir(kind) if not n.startswith("_") and n not in INTERNAL.get(kind, ()))
    for name in sorted((*names, *(["__init__"] if kind is Throttler else []))):
        value = inspect.getattr_static(kind, name)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        shown[name] = (
            list(inspect.signature(value).parameters) if inspect.isfunction(value) else "value"
        )
    return shown


def options_of(parser):
    """Each command's options and arguments."""
    (commands,) = (a for a in parser._actions if hasattr(a, "choices") and a.dest == "command")
    return {
        name: sorted("/".join(action.option_strings) or action.dest for action in command._actions)
        for name, command in commands.choices.items()
    }


#: Called by our own integrations only, with values that are not public; no guide names them.
INTERNAL = {Permit: ("acquire", "drop", "settle_report", "settle_usage", "ticket", "wire_time")}

DOORS = ("Throttler", "Permit", "MessageStream", "Batches", "BatchHandle", "LineTicket")


def surface():
    """All of it, as JSON has it."""
    return {
        "names": {module: names_of(module) for module in MODULES},
        "fields": {name: fields_of(kind) for name, kind in values()},
        "methods": {
            "FakeClaude": methods_of(FakeClaude),
            **{name: methods_of(getattr(claude_throttle, name)) for name in DOORS},
        },
        "errors": {
            name: [base.__name__ for base in getattr(claude_throttle, name).__mro__[1:-2]]
            for name in sorted(claude_throttle.__all__)
            if inspect.isclass(getattr(claude_throttle, name))
            and issubclass(getattr(claude_throttle, name), Exception)
        },
        "environment": environment_of_settings(),
        "priorities": {one.name: one.value for one in Priority},
        "exit codes": {
            name: value for name, value in sorted(vars(cli).items()) if isinstance(value, int)
        },
        "commands": options_of(build_parser()),
    }


def environment_of_settings():
    """Settings that CLAUDE_THROTTLE_... sets: those that complain of a value that cannot be."""
    read = []
    for field in dataclasses.fields(Settings):
        for text in ("0.25", "start", "api", "stop", "memory://x", "2023-01-01"):
            environ = {f"CLAUDE_THROTTLE_{field.name.upper()}": text}
            try:
                changed = getattr(Settings.from_env({"api_key": "k"}, environ), field.name)
            except ConfigurationError:
                read.append(field.name)
                break
            if changed not in (field.default, getattr(Settings(api_key="k"), field.name)):
                read.append(field.name)
                break
    return sorted(read)


@pytest.mark.parametrize("part", sorted(set(SNAPSHOT) - {"threads"}))
def test_nothing_public_was_lost_or_changed(part):
    """To add something, write it into the snapshot in the commit that adds it."""
    assert json.loads(json.dumps(surface()[part])) == SNAPSHOT[part]


def test_the_names_of_threads(fake):
    """They are what a dump of a stuck process shows, and people filter logs by them."""
    with Throttler(
        api_key="k", base_url=fake().url, rpm=6000, shared="memory://names"
    ) as throttler:
        throttler.call(**ask())
        names = {t.name for t in threading.enumerate() if t.name.startswith("claude")}
    assert names == set(SNAPSHOT["threads"])
