"""What images and PDFs cost, read off their first bytes."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_throttle.core.estimation.media import (
    MAX_PAGES,
    PAGE_CHARACTERS,
    PAGE_TOKENS,
    UNSEEN_IMAGE_TOKENS,
    image_tokens,
    pdf_tokens,
)

NEW, OLD = "claude-opus-4-8", "claude-sonnet-4-5-20250929"

#: Pixels, as they follow a header.
REST = bytes(range(256)) * 20


def png(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + REST


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + REST


def jpeg(width, height, before=0):
    """With a preview of *before* bytes in front, as cameras put it there."""
    parts = [b"\xff\xd8", b"\xff\xe0" + struct.pack(">H", 16) + bytes(14)]
    while before > 0:
        size = min(before, 65_000)
        parts.append(b"\xff\xe1" + struct.pack(">H", size + 2) + b"\xff\xc0" * (size // 2))
        parts[-1] += bytes(size % 2)
        before -= size
    parts.append(b"\xff\xdb" + struct.pack(">H", 67) + bytes(65))
    parts.append(b"\xff\xc4" + struct.pack(">H", 20) + bytes(18))  # a table, no frame
    parts.append(b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + bytes(10))
    return b"".join(parts) + REST


def webp(kind, body):
    return b"RIFF" + struct.pack("<I", 9) + b"WEBP" + kind + struct.pack("<I", 9) + body + REST


def lossy(width, height):
    return webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height))


def lossless(width, height):
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14))


def extended(width, height):
    sizes = [struct.pack("<I", side - 1)[:3] for side in (width, height)]
    return webp(b"VP8X", bytes(4) + b"".join(sizes))


def source(picture):
    return {"type": "base64", "data": base64.b64encode(picture).decode()}


@pytest.mark.parametrize("write", [png, gif, jpeg, lossy, lossless, extended])
@pytest.mark.parametrize(
    ("width", "height", "tokens"), [(200, 200, 64), (1000, 1000, 1296), (1092, 1092, 1521)]
)
def test_an_image_costs_its_patches(write, width, height, tokens):
    """The examples of the vision page, in every format the API takes."""
    assert image_tokens(source(write(width, height)), NEW) == tokens
    assert image_tokens(source(write(width, height)), OLD) == tokens


@pytest.mark.parametrize("write", [png, gif, jpeg, lossy, lossless, extended])
def test_width_and_height_are_told_apart(write):
    """A banner, long enough that its longer side decides."""
    assert image_tokens(source(write(2800, 28)), NEW) == 92
    assert image_tokens(source(write(28, 2800)), OLD) == 56


def test_a_large_image_is_scaled_down_first():
    """To 4,784 patches since Claude 4.7, to 1,568 before: the examples of the vision page."""
    assert image_tokens(source(png(1920, 1080)), NEW) == 2691
    assert image_tokens(source(png(3840, 2160)), NEW) == 4784
    assert image_tokens(source(png(3840, 2160)), OLD) == pytest.approx(1560, rel=0.01)


@pytest.mark.parametrize(
    "model", ["claude-3-haiku-20240307", "claude-sonnet-4-20250514", "claude-opus-4-6", OLD]
)
def test_models_before_4_7_see_less(model):
    """By their names, dated or not."""
    assert image_tokens(source(png(4000, 4000)), model) == 1568


@pytest.mark.parametrize("model", ["claude-opus-5", "claude-haiku-5", "claude-fable-5-1", "new"])
def test_models_nobody_has_heard_of_are_newer(model):
    """The page says: 4.7 and later."""
    assert image_tokens(source(png(4000, 4000)), model) == 4784


@pytest.mark.parametrize("before", [1, 2, 3, 4000, 65_000, 300_000])
def test_a_preview_before_a_jpegs_frame_is_skipped(before):
    """Though it is full of what looks like frames; at any offset within four characters."""
    assert image_tokens(source(jpeg(1000, 500, before)), NEW) == 36 * 18


def test_only_the_header_is_decoded():
    """What follows it is not even base64."""
    data = base64.b64encode(png(1000, 1000)[:36]).decode() + "é!" * 100_000
    assert image_tokens({"type": "base64", "data": data}, NEW) == 1296


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "url", "url": "https://example.com/cat.jpg"},
        {"type": "file", "file_id": "file_1"},
        {"type": "base64", "data": "not base64 at all, but long enough to look at"},
        {"type": "base64", "data": "é" * 100},
        {"type": "base64", "data": ""},
        {"type": "base64", "data": None},
        source(b"BM" + REST),
        source(png(0, 10)),
        source(jpeg(10, 10)[:40]),
        source(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 200),
        source(webp(b"ALPH", b"")),
        None,
    ],
)
def test_an_image_that_cannot_be_seen_costs_a_usual_one(odd):
    """Behind a URL, broken, or of a kind the API does not take."""
    assert image_tokens(odd, NEW) == UNSEEN_IMAGE_TOKENS


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG", b"GIF8", b"\xff\xd8\xff"]))
def test_no_bytes_break_it(noise, start):
    """Nor cost more than the largest image."""
    assert 0 < image_tokens(source(start + noise), NEW) <= 4784
    assert pdf_tokens(source(b"%PDF-1.7 /Linearized" + noise)["data"]) >= PAGE_TOKENS


def test_a_pdf_for_the_web_says_how_many_pages_it_has():
    """In its first object, whatever its size."""
    head = (
        b"%PDF-1.5\n%\xe2\xe3\n43 0 obj\n<</Linearized 1/L 9/O 45/E 9/N 12/T 9/H [ 9 9]>>\nendobj"
    )
    assert pdf_tokens(source(head + REST)["data"]) == 12 * PAGE_TOKENS


def test_other_pdfs_are_guessed_by_size():
    """At least a page, at most what a request may have."""
    assert pdf_tokens("") == PAGE_TOKENS
    assert pdf_tokens("JVBE" * (PAGE_CHARACTERS // 2)) == pytest.approx(2 * PAGE_TOKENS)
    assert pdf_tokens("JVBE" * 2 * 10**7) == MAX_PAGES * PAGE_TOKENS
