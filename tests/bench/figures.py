"""What a row hands back: what was asked, what was measured, and whether it is enough."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    asked: str
    measured: str
    reached: bool


def at_most(what, measured, limit, form="{:.3f}", note=""):
    """*measured* must not exceed *limit*; both are shown in *form*, *note* after them."""
    shown = f"{form.format(measured)} {note}".rstrip()
    return Figure(what, f"≤ {form.format(limit)}", shown, measured <= limit)


def more_than(what, measured, limit, form="{:.0f}"):
    """*measured* must exceed *limit*."""
    return Figure(what, f"> {form.format(limit)}", form.format(measured), measured > limit)


def none_of(what, count):
    """There must be none."""
    return Figure(what, "0", f"{count}", count == 0)


def scaled(count, share, least=20):
    """*share* of *count*, but enough to go through the motions."""
    return max(min(count, least), round(count * share))


def quantile(values, share):
    """The value below which *share* of *values* lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def print_table(lines):
    """Columns side by side; the first line heads them."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
