"""Whether mypy and pyright tell right uses from wrong ones: ``python -m tests.types.check``.

Run it from the repository, with an interpreter that has both, the package and its libraries. Every
line of ``wrong.py`` that ends in ``# wrong`` must be reported, and no other; of ``right.py`` none.
With the interpreter of an older SDK as argument: ``wrong.py`` alone, but for the lines with
``# wrong (new)``, which need types that an old SDK has not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
OLDER = sys.argv[1:2]
FILES = ("wrong.py",) if OLDER else ("right.py", "wrong.py")
LIBRARIES = OLDER[0] if OLDER else sys.executable
#: What is known of the oldest Python must hold for all; mypy no longer takes 3.9.
PYTHON = "3.10"


def run(*command: str) -> str:
    """What a checker prints."""
    found = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    sys.stderr.write(found.stderr)
    return found.stdout


def by_mypy() -> set[tuple[str, int]]:
    """Files and lines that mypy reports."""
    libraries = ("--python-executable", LIBRARIES, "--python-version", PYTHON)
    # The package itself is checked beside types of the newest libraries, not here.
    checked = ("mypy", "--strict", "--follow-imports=silent", *libraries)
    told = run(*checked, *(str(FOLDER / name) for name in FILES))
    lines = re.findall(r"^(\S+):(\d+): error: (.*)$", told, re.MULTILINE)
    return {shown("mypy", Path(file).name, int(line), text) for file, line, text in lines}


def by_pyright() -> set[tuple[str, int]]:
    """Files and lines that pyright reports."""
    options = {
        # Strict, it complains of what is unknown only because an old SDK has no such type.
        "typeCheckingMode": "standard" if OLDER else "strict",
        "pythonVersion": PYTHON,
        "include": [f"tests/types/{name}" for name in FILES],
    }
    # Where the paths are that it names.
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=FOLDER.parents[1]) as settings:
        json.dump(options, settings)
        settings.flush()
        told = run("pyright", "--outputjson", "-p", settings.name, "--pythonpath", LIBRARIES)
    return {
        shown("pyright", Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
        for one in json.loads(told)["generalDiagnostics"]
        if one["severity"] == "error"
    }


def shown(checker: str, file: str, line: int, text: str) -> tuple[str, int]:
    """Its file and line, after printing what it says."""
    print(f"{checker}: {file}:{line}: {text.splitlines()[0][:150]}")
    return file, line


def marked(mark: str) -> set[tuple[str, int]]:
    """The lines of ``wrong.py`` with such a mark."""
    lines = (FOLDER / "wrong.py").read_text(encoding="utf-8").splitlines()
    return {("wrong.py", number) for number, line in enumerate(lines, 1) if line.endswith(mark)}


def main() -> int:
    """Compare, and print what differs."""
    new = marked("# wrong (new)")
    wanted = marked("# wrong") | (set() if OLDER else new)
    failed = 0
    for checker, reported in (("mypy", by_mypy()), ("pyright", by_pyright())):
        for what, where in (
            ("reports", reported - wanted - new),
            ("misses", wanted - reported),
        ):
            for file, line in sorted(where):
                print(f"WRONG: {checker} {what} {file}:{line}")
                failed = 1
        print(f"{checker}: {len(reported & wanted)} of {len(wanted)} wrong lines")
    return failed


if __name__ == "__main__":
    sys.exit(main())
