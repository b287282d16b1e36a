"""Input tokens of images and PDFs, by the first bytes of their base64.

Only those bytes are decoded: a body may hold 32 MB of pictures, and submit() takes microseconds. No
imaging library is needed for the size in a file's header. Damaged or unknown data never raises: it
gets the figure of an unseen image, and the API decides about it.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any, NamedTuple, Optional

#: Pixels. "Each patch is a 28x28-pixel block of the image, referred to as a visual token"
#: (vision page, 2026-09; until the spring it said width * height / 750).
PATCH = 28


class ImageResolution(NamedTuple):
    """The largest size that a model reads; larger images are scaled down to it by the server."""

    #: Pixels of the longer side.
    edge: int
    tokens: int


#: Claude 4.7 and later; and the models before (vision page, 2026-09).
HIGH = ImageResolution(2576, 4784)
STANDARD = ImageResolution(1568, 1568)

#: What tells the models before 4.7, in their names: claude-3-…, claude-sonnet-4-20250514 …
_STANDARD_MODELS = ("claude-2", "claude-3", "-4-0", "-4-1", "-4-2025", "-4@", "-4-5", "-4-6")

#: Tokens of an image we cannot see (a URL, a file id, an unknown format): 1,050 pixels square.
UNSEEN_IMAGE_TOKENS = 1444

#: Tokens of a page, text and picture: "7,000 tokens for a 3-page PDF" (PDF page, 2026-08). The
#: text alone is said to take 1,500 to 3,000.
PAGE_TOKENS = 2333

#: Base64 characters of a page, where the file does not say how many it has: 75 kB, a coarse guess.
PAGE_CHARACTERS = 100_000

#: Pages a request may have (PDF page, 2026-08).
MAX_PAGES = 600

#: Segments of a JPEG before its size: a dozen is usual, a colour profile takes a few more.
_MAX_SEGMENTS = 64

#: JPEG markers in the range of the frame headers that are none: tables, and a reserved one.
_NO_FRAME = (0xC4, 0xC8, 0xCC)


def image_tokens(source: Any, model: str) -> float:
    """Input tokens of an image block, by its ``source``; never raises for odd data."""
    data = source.get("data") if isinstance(source, dict) else None
    size = _size(data) if isinstance(data, str) else None
    if size is None or min(size) <= 0:
        return float(UNSEEN_IMAGE_TOKENS)
    older = any(part in model for part in _STANDARD_MODELS)
    return float(_scaled_tokens(*size, STANDARD if older else HIGH))


def _scaled_tokens(width: int, height: int, most: ImageResolution) -> int:
    """Patches of the image after the server has scaled it down, at most the model's limit."""
    longer = max(width, height)
    edge = min(longer, most.edge)
    # In whole numbers: in others an edge of just 56 patches comes out as 57.
    across, down = (-(-side * edge // (longer * PATCH)) for side in (width, height))
    return min(most.tokens, across * down)


def _size(data: str) -> Optional[tuple[int, int]]:
    """Width and height in pixels; None if the header does not contain them.

    Known are PNG, GIF, JPEG and WebP, the formats that the API takes.
    """
    try:
        head = _bytes_at(data, 0, 30)
        if len(head) < 30:
            return None
        if head.startswith(b"\x89PNG"):
            return _big(head[16:20]), _big(head[20:24])
        if head.startswith(b"GIF8"):
            return _little(head[6:8]), _little(head[8:10])
        if head.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        return _webp_size(head) if head[8:12] == b"WEBP" else None
    except ValueError:  # not base64
        return None


def _webp_size(head: bytes) -> Optional[tuple[int, int]]:
    kind = head[12:16]
    if kind == b"VP8X":
        return _little(head[24:27]) + 1, _little(head[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
    return None


def _jpeg_size(data: str) -> Optional[tuple[int, int]]:
    """From the frame header, which a preview or a colour profile may push far back."""
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        segment = _bytes_at(data, offset, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return _big(segment[7:9]), _big(segment[5:7])
        offset += 2 + _big(segment[2:4])
    return None


def pdf_tokens(data: str) -> float:
    """Input tokens of a PDF in base64: by its pages if it says how many, otherwise by its size."""
    pages = _linearized_pages(data) or len(data) / PAGE_CHARACTERS
    return PAGE_TOKENS * min(MAX_PAGES, max(1.0, pages))


def _linearized_pages(data: str) -> int:
    """A PDF made for the web begins with a dictionary that has the count; 0 for others."""
    try:
        head = _bytes_at(data, 0, 300)
    except ValueError:
        return 0
    entries = head.partition(b"/Linearized")[2].partition(b">>")[0]
    number = entries.partition(b"/N")[2].partition(b"/")[0].strip()
    return int(number) if number.isdigit() else 0


def _bytes_at(data: str, offset: int, size: int) -> bytes:
    """A few bytes of what *data* encodes; fewer at its end. ValueError if it is not base64."""
    first = offset // 3 * 4
    last = (offset + size + 2) // 3 * 4
    skip = offset % 3
    return a2b_base64(data[first:last])[skip : skip + size]


def _big(number: bytes) -> int:
    return int.from_bytes(number, "big")


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")
