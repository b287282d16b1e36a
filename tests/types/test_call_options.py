"""What type checkers are told of is what the installed SDK and the methods take."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import anthropic

from claude_throttle import CallOptions, MapOptions, Throttler
from claude_throttle.config import call_options
from claude_throttle.transport.own_keywords import OUR_KEYWORDS

FOLDER = Path(__file__).parent
#: Keywords of the SDK's methods that no request holds, or that other methods are for.
ELSEWHERE = {"stream", "extra_headers", "extra_query", "extra_body", "timeout", "betas"}


def declared():
    """The fields of each class."""
    tree = ast.parse(inspect.getsource(call_options))
    return {
        found.name: {field.target.id for field in found.body if isinstance(field, ast.AnnAssign)}
        for found in ast.walk(tree)
        if isinstance(found, ast.ClassDef)
    }


def test_each_parameter_of_the_sdk_is_typed():
    """A release that brings a new one is told here, and a user writes extra_body= until then."""
    client, known = anthropic.Anthropic(api_key="k"), declared()
    clients = [client, getattr(client, "beta", client)]  # of old releases the beta is another thing
    methods = [one.messages.create for one in clients if hasattr(one, "messages")]
    taken = {name for method in methods for name in inspect.signature(method).parameters}
    assert taken - ELSEWHERE <= known["NeededParameters"] | known["ApiParameters"]
    client.close()


def test_our_own_keywords_are_typed():
    known = declared()["OwnOptions"] | {"raw"}
    assert known == set(OUR_KEYWORDS)
    submit = inspect.signature(Throttler.submit).parameters
    assert known == set(submit) - {"self", "given", "params"}


def test_the_names_are_dicts_at_runtime():
    """So that a program that makes its requests with them needs no SDK for it."""
    assert CallOptions(model="m", max_tokens=1) == {"model": "m", "max_tokens": 1}
    assert MapOptions(max_tokens=1) == {"max_tokens": 1}


def test_the_files_for_type_checkers_have_forty_uses_each():
    """CI checks them by mypy --strict and pyright: see check.py."""
    assert (FOLDER / "right.py").read_text(encoding="utf-8").count("\ndef ") >= 40
    assert (FOLDER / "wrong.py").read_text(encoding="utf-8").count("# wrong\n") >= 40
