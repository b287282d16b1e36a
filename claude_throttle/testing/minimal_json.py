"""The least JSON value that a schema admits: empty, zero, or the first of what it names.

Code that asks for structured output parses what comes back, so an answer that nobody scripted must
fit the schema. Only a ``pattern`` is left unmet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "a@example.com",
    "hostname": "example.com",
    "uri": "https://example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

#: Limits at the end of a description, where the official SDK moves those that the API lacks.
_MOVED = re.compile(r"\{\w+: [^{}]*\}\s*$")
_LIMIT = re.compile(r"(\w+): (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=[,}])")

#: In place of the value of a schema that always needs itself.
_ENDLESS = object()


def minimal_json(schema: Any) -> Any:
    """A value that *schema* admits; an empty object if it is no schema, or admits none."""
    found = _value(schema, schema, frozenset()) if isinstance(schema, Mapping) else {}
    return {} if found is _ENDLESS else found


def _value(schema: Any, root: Schema, within: frozenset[str]) -> Any:
    """The value for *schema*, inside the schemas that *within* names, which must not come again."""
    if not isinstance(schema, Mapping):  # True admits anything
        return ""
    if "$ref" in schema:
        ref = str(schema["$ref"])
        if ref in within:
            return _ENDLESS
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        return _value({**_referred(ref, root), **beside}, root, within | {ref})
    named = [schema[name] for name in ("const", "default") if name in schema]
    for name in ("enum", "examples"):
        named += schema.get(name) or ()
    if named:
        return named[0]
    if schema.get("allOf"):
        return _value(_merged(schema, root), root, within)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        values = [_value(choice, root, within) for choice in choices]
        return None if None in values else next((v for v in values if v is not _ENDLESS), _ENDLESS)
    return _of_type(_type(schema), {**_moved(schema), **schema}, root, within)


def _of_type(kind: str, schema: Schema, root: Schema, within: frozenset[str]) -> Any:
    if kind == "object":
        return _object(schema, root, within)
    if kind == "array":
        items = list(schema.get("prefixItems") or ())
        items += [schema.get("items")] * (int(schema.get("minItems", 0)) - len(items))
        values = [_value(item, root, within) for item in items]
        return _ENDLESS if _ENDLESS in values else values
    if kind == "string":
        return _FORMATS.get(schema.get("format", ""), "").ljust(
            int(schema.get("minLength", 0)), "x"
        )
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": False, "null": None}.get(kind, "")


def _object(schema: Schema, root: Schema, within: frozenset[str]) -> Any:
    """What is required; everything where the schema does not say what that is."""
    properties = schema.get("properties") or {}
    required = schema.get("required")
    names = properties if required is None else required
    values = {name: _value(properties.get(name), root, within) for name in names}
    endless = [name for name, value in values.items() if value is _ENDLESS]
    if endless and required is not None:
        return _ENDLESS
    return {name: value for name, value in values.items() if name not in endless}


def _number(schema: Schema) -> Any:
    """The number nearest to 0; whole, or a multiple, where there is one."""
    step = schema.get("multipleOf") or 1
    above, below = (schema.get(f"exclusive{name}imum") for name in ("Min", "Max"))
    low = max(schema.get("minimum", -math.inf), -math.inf if above is None else above)
    high = min(schema.get("maximum", math.inf), math.inf if below is None else below)
    steps = math.ceil(low / step) if low > 0 else math.floor(high / step) if high < 0 else 0
    for found in (steps * step, (steps + 1) * step, (steps - 1) * step):
        if low <= found <= high and found not in (above, below):
            return found
    return (low + high) / 2


def _type(schema: Schema) -> str:
    """Its type: null if that is one of several; without any, the one its other words are about."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return "null" if "null" in kinds or not kinds else str(kinds[0])
    if "properties" in schema or "required" in schema:
        return "object"
    return str(kinds or ("array" if "items" in schema or "prefixItems" in schema else "string"))


def _referred(ref: str, root: Schema) -> Schema:
    found: Any = root
    for part in ref.lstrip("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~"), {})
    return found if isinstance(found, Mapping) else {}


def _merged(schema: Schema, root: Schema) -> Schema:
    """*schema* with all that its ``allOf`` adds."""
    merged = {name: value for name, value in schema.items() if name != "allOf"}
    for part in schema["allOf"]:
        added = {**_referred(part["$ref"], root), **part} if "$ref" in part else part
        both = [one for one in (merged, added) if "properties" in one or "required" in one]
        properties = {k: v for one in both for k, v in one.get("properties", {}).items()}
        required = dict.fromkeys(name for one in both for name in one.get("required", ()))
        merged = {**merged, **{k: v for k, v in added.items() if k != "$ref"}}
        if both:
            merged.update(properties=properties, required=list(required))
    return merged


def _moved(schema: Schema) -> dict[str, Any]:
    found = _MOVED.search(str(schema.get("description", "")))
    return {name: json.loads(number) for name, number in _LIMIT.findall(found[0])} if found else {}
