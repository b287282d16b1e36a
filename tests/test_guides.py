"""The guides hang together: links lead somewhere, names are those of the code, nothing is lost."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from tests.bench.__main__ import ROWS
from tests.support.documents import DOCUMENTS, GUIDES, checked_by
from tests.support.programs import ROOT

PACKAGE = ROOT / "claude_throttle"
TEXTS = {file: path.read_text(encoding="utf-8") for file, path in DOCUMENTS.items()}

#: Without code blocks and what the code's own comments say.
PROSE = {
    file: re.sub(
        r"^<!-- (settings|refusals) -->\n.*?^<!-- /\1 -->\n",
        "",
        re.sub(r"^```.*?^```\n", "", text, flags=re.S | re.M),
        flags=re.S | re.M,
    )
    for file, text in TEXTS.items()
}

LINKS = [(file, to) for file, text in PROSE.items() for to in re.findall(r"\]\(([^)\s]+)\)", text)]


def anchors(path):
    """The names of a document's headings in links."""
    for heading in re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(("file", "to"), LINKS)
def test_a_link_leads_somewhere(file, to):
    """To a file of this repository, and to a heading in it."""
    assert ":" not in to, "how would it be checked?"
    name, _, anchor = to.partition("#")
    target = (DOCUMENTS[file].parent / name).resolve() if name else DOCUMENTS[file]
    assert target.exists()
    assert ROOT.resolve() in target.parents
    assert not anchor or anchor in set(anchors(target))


def test_the_readme_is_one_page():
    """A newcomer reads it to its end."""
    assert TEXTS["README.md"].count("\n") < 220


def test_the_readme_leads_to_every_guide():
    """Where links lead nowhere, as on PyPI, the names say which file it is."""
    named = re.findall(r"\[([^\]]+)\]\(examples/guides/([^)#]+)\)", PROSE["README.md"])
    assert all(text == name for text, name in named)
    assert {name for _, name in named} == {path.name for path in GUIDES}
    assert "graft examples" in (ROOT / "MANIFEST.in").read_text().splitlines()


def test_the_readmes_figures_are_those_of_the_guide():
    """Goal and measured value are the same there."""
    figures = TEXTS["examples/guides/figures.md"].splitlines()
    part = TEXTS["README.md"].partition("## How fast it is\n")[2].partition("\n## ")[0]
    _, _, *rows = [line for line in part.splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        what, rest = row[2:].split(" | ", 1)
        what = what.replace("one process, nothing configured: ", "")  # a heading says that there
        assert f"| {what} | {rest}" in figures


def test_figures_name_rows_that_can_be_measured():
    """For ``python -m tests.bench NAME``."""
    named = re.findall(r"\(rows `([\w-]+)` to `([\w-]+)`", TEXTS["examples/guides/figures.md"])
    order = list(ROWS)
    places = [order.index(name) for pair in named for name in pair]
    assert places
    assert places == sorted(places)


@pytest.mark.parametrize("file", PROSE)
def test_what_is_to_be_installed_exists(file):
    """Extras are those of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    commands = re.findall(r"pip install [^`]*", PROSE[file])
    for command in commands:
        for extras in re.findall(r"\[([^\]]*)\]", command):
            assert set(extras.split(",")) <= set(setup["options.extras_require"])
        assert "claude_throttle" not in command


@pytest.mark.parametrize("file", PROSE)
def test_files_named_in_the_text_exist(file):
    """Below the repository, the package or the examples."""
    for name in re.findall(r"`((?:\w[\w.]*/)+\w[\w.]*\.\w+)`", PROSE[file]):
        if name != "claude_throttle/unavailable.html":  # a template of the reader's own
            assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


def folders():
    """Of the package, as the picture has to show them; below an integration they are its own."""
    for init in PACKAGE.rglob("__init__.py"):
        folder = init.parent.relative_to(ROOT)
        if folder.parts[1:2] != ("contrib",) or len(folder.parts) < 4:
            yield folder.as_posix()


def pictured(text):
    """Paths of the tree, by how far each line is indented."""
    way = []
    for line in text.splitlines():
        mark = re.match(r"[│├└─ ]*", line).group()
        way[len(mark) // 4 :] = [line[len(mark) :].split()[0].rstrip("/")]
        yield "/".join(way)


def test_the_picture_shows_the_folders_there_are():
    """In the commit that changes them."""
    (block,) = checked_by("::test_the_picture_shows_the_folders_there_are")
    shown = list(pictured(block.text))
    assert [path for path in shown if not (ROOT / path).exists()] == []
    assert sorted(path for path in shown if (ROOT / path).is_dir()) == sorted(folders())


def test_the_way_of_a_call_names_what_there_is():
    """Its stations are explained below it, and its one class is there."""
    (block,) = checked_by("::test_the_way_of_a_call_names_what_there_is")
    text = TEXTS[block.file].partition(block.text)[2].partition("\n## ")[0]
    for station in ("backlog", "worker", "sender thread", "verdict", "lane.finish"):
        assert station in block.text.lower()
        assert station in TEXTS[block.file].replace(block.text, "").lower()
    assert "permit first" in text
    assert "class PacedRetry" in (PACKAGE / "transport" / "retry.py").read_text(encoding="utf-8")


def test_the_rule_names_the_packages_there_are():
    """Each once, and no other."""
    house = TEXTS["examples/guides/house.md"].partition("## The rule")[2].partition("\n## ")[0]
    named = [
        name
        for line in re.findall(r"^\d+\. (.*)$", house, re.M)
        for name in re.findall(r"`([\w.]+)`", line)
    ]
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"core"}
    there |= {f"core.{path.parent.name}" for path in PACKAGE.glob("core/*/__init__.py")}
    assert len(set(named)) == len(named)
    assert set(named) - there == {"claude_throttle", "throttler", "engine", "errors"}
    assert there - set(named) == set()


#: For each there is a plain word, or one of the field.
OUT = (
    *("room", "corridor", "guest", "clerk", "seat", "untold"),
    *("whoever", "somebody", "nobody", "for ever", "as ever"),
)


@pytest.mark.parametrize("file", PROSE)
def test_the_words_are_plain(file):
    """As the last part of house.md asks."""
    found = re.findall(rf"\b(?:{'|'.join(OUT)})s?\b", PROSE[file], re.I)
    allowed = ["room"] if Path(file).name == "limits.md" else []  # "a refusal that shows room"
    assert found == allowed
