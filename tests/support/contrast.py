"""Contrast as the Web Content Accessibility Guidelines 2.2 define it, of all texts on a page."""

from __future__ import annotations

import re
from typing import NamedTuple

#: Each visible text with its colour, and the grounds behind it, nearest first.
COLOURS = """
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode, box = node.parentElement, text = node.textContent.trim();
        if (!text || !box.checkVisibility({visibilityProperty: true}) || box.closest('.spoken')
            || box.closest('noscript, script, style, template')) continue;
        const grounds = [];
        let opacity = 1;
        for (let one = box; one; one = one.parentElement) {
            grounds.push(getComputedStyle(one).backgroundColor);
            opacity *= +getComputedStyle(one).opacity;
        }
        found.push([text, getComputedStyle(box).color, grounds, opacity]);
    }
    return found;"""


class Contrast(NamedTuple):
    """Of one text."""

    text: str
    ratio: float


def contrast(browser):
    """That of each visible text on the page."""
    return [
        Contrast(text, _ratio(colour, grounds, opacity))
        for text, colour, grounds, opacity in browser.run(COLOURS)
    ]


def _ratio(colour, grounds, opacity):
    ground = (255.0, 255.0, 255.0)
    for one in reversed(grounds):
        ground = _over(*_parts(one), ground)
    (red, green, blue), alpha = _parts(colour)
    text = _over((red, green, blue), alpha * opacity, ground)
    lighter, darker = sorted((_luminance(text), _luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _parts(colour):
    """Red, green, blue, each up to 255; and alpha."""
    numbers = [float(one) for one in re.findall(r"[\d.]+", colour)]
    assert colour.startswith("rgb"), colour
    return tuple(numbers[:3]), numbers[3] if len(numbers) == 4 else 1.0


def _over(colour, alpha, ground):
    return tuple(alpha * one + (1.0 - alpha) * below for one, below in zip(colour, ground))


def _luminance(colour):
    """WCAG 2.2, "relative luminance"."""
    red, green, blue = (_linear(one / 255.0) for one in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part):
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
