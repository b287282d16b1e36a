"""The page without a browser: one file, nothing from elsewhere, headers that hold it to that."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys

from claude_throttle.contrib import status

PAGE = status.page().decode()


def policy():
    found = status.page_headers()["Content-Security-Policy"]
    return {name: rest for name, _, rest in (part.partition(" ") for part in found.split("; "))}


def test_it_needs_nothing_from_elsewhere():
    """No address but its data's, and that of the namespace of SVG."""
    addresses = set(re.findall(r"""(?:https?:)?//[^\s"'<>]+\w""", PAGE)) - {
        "http://www.w3.org/2000/svg"
    }
    assert {one for one in addresses if "." in one} == set()
    links = re.findall(r"""\b(?:src|href|action)=["']([^"']*)""", PAGE)
    assert {link for link in links if not link.startswith("data:image/svg+xml,")} == {
        "",
        "data.json",
    }
    assert "@import" not in PAGE
    assert "url(" not in PAGE


def test_it_is_one_document_for_readers_of_all_kinds():
    """Language, title, width, one h1, landmarks, a word for those without JavaScript."""
    assert PAGE.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>Claude throttle</title>" in PAGE
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in PAGE
    assert len(re.findall(r"<h1\b", PAGE)) == len(re.findall(r"<main\b", PAGE)) == 1
    assert "<noscript>" in PAGE
    assert "prefers-reduced-motion" in PAGE


def test_text_can_only_become_text():
    """Nothing in the script makes HTML, or code, of a text."""
    script = re.search(r"<script>(.*)</script>", PAGE, re.S).group(1)
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in script
    assert re.findall(r"\son\w+=", PAGE.replace(script, "")) == []
    assert re.findall(r"\sstyle=", PAGE) == []


def test_the_policy_lets_its_own_script_and_style_run_and_no_other():
    """By the hashes of what is between the tags."""
    for name, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", PAGE, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy()[directive] == f"'sha256-{digest}'"


def test_the_policy_is_strict():
    """Nothing by default; what is open is listed here."""
    found = policy()
    assert found["default-src"] == found["base-uri"] == found["form-action"] == "'none'"
    assert found["connect-src"] == found["frame-ancestors"] == "'self'"
    assert found["img-src"] == "data:"
    assert not any("unsafe" in rest or "*" in rest for rest in found.values())


def test_nobody_keeps_it():
    """Page and data alike."""
    for headers in (status.page_headers(), status.data_headers()):
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
    assert status.page_headers()["Content-Type"] == "text/html; charset=utf-8"
    assert status.data_headers()["Content-Type"] == "application/json"


def test_who_changes_the_headers_changes_a_copy():
    """A framework adds its own."""
    status.page_headers()["X"] = status.data_headers()["X"] = "1"
    assert "X" not in status.page_headers()
    assert "X" not in status.data_headers()


def test_it_loads_no_framework():
    """Nor the official SDK, nor a store."""
    program = (
        "import sys, json; from claude_throttle.contrib import status; status.page_headers();"
        "print(json.dumps(sorted(set(sys.argv) & set(sys.modules))))"
    )
    guests = ["django", "flask", "anthropic", "redis", "sqlite3", "celery"]
    done = subprocess.run(
        [sys.executable, "-c", program, *guests], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
