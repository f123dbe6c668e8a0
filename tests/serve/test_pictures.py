"""Whatever is sent becomes pixels or one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mfkd.export.feed import Feed
from mfkd.pictures import kind
from mfkd.serve.pictures import PictureError, pixels

FEED = Feed("n", ("a", "b"), 3, (8, 8), (0.0,) * 3, (1.0,) * 3)


def refusal(data, most=1_000_000):
    with pytest.raises(PictureError) as caught:
        pixels(data, FEED, most)
    return caught.value.status, str(caught.value)


def noise(size=(40, 30)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image, name, **options):
    with io.BytesIO() as file:
        image.save(file, name, **options)
        return file.getvalue()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_every_type_is_read_by_its_content(kit, name):
    data = kit.picture((250, 10, 20), (16, 8), name)
    assert kind(data) == name
    found = pixels(data, FEED, 128)
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - [250, 10, 20]).max() <= 3


def test_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(data, FEED, 64) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    "data", [b"hello", b"%PDF-1.7", b"<svg/>", b"II*\0" + bytes(40), b"P6 1 1 255 abc", b"\0" * 100, b"RIFF1234WAVE"]
)
def test_other_types_are_told_what_to_send(data):
    assert refusal(data) == (415, "This is no picture of a known type; send JPEG, PNG, WebP, BMP or GIF.")


def test_empty_picture():
    assert refusal(b"") == (400, "The picture is empty; send one with content.")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_cut_off_anywhere_is_one_sentence(name):
    data = encoded(noise(), name)
    for share in (0.02, 0.1, 0.5, 0.9):
        found = refusal(data[: max(12, int(share * len(data)))])
        assert found == (422, "The picture is damaged or cut off; send it again.")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_made_up_bytes_never_raise_anything_else(name):
    rng = np.random.default_rng(1)
    whole = np.frombuffer(encoded(noise((12, 9)), name), np.uint8)
    refused = 0
    for _ in range(60):
        data = whole.copy()
        data[rng.integers(12, len(data), 8)] = rng.integers(0, 256, 8)
        try:
            assert pixels(data.tobytes(), FEED, 100_000).shape == (8, 8, 3)
        except PictureError as error:
            refused += 1
            assert error.status in (413, 422)
    assert name in ("BMP", "GIF", "JPEG") or refused > 0  # the first three have no checksums


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(side, scans, text=b""):
    """A progressive JPEG whose later scans say of all blocks at once that there is nothing."""
    blocks = (side // 8) ** 2
    runs = -(-blocks // 32767)  # an end of band for 2^14 + 0x3ffe blocks
    later = segment(0xDA, b"\1\1\0\1\x3f\0") + _packed(("0" + "1" * 13 + "0") * runs)
    return (
        b"\xff\xd8" + segment(0xFE, text) + segment(0xDB, b"\0" + bytes([1] * 64))
        + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
        + segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
        + segment(0xDA, b"\1\1\0\0\0\0") + _packed("0" * blocks) + later * (scans - 1) + b"\xff\xd9"
    )  # fmt: skip


def _packed(bits):
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")


def test_scans_of_a_jpeg_are_counted_before_they_are_decoded(monkeypatch):
    assert pixels(jpeg(64, 100), FEED, 4096).shape == (8, 8, 3)
    with monkeypatch.context() as patch:
        patch.setattr("mfkd.serve.pictures.open_image", None)
        for scans in (101, 10_000):
            text = "The picture is a JPEG of more than 100 scans or 1,000 segments; save it in the usual way."
            assert refusal(jpeg(64, scans)) == (422, text)
        assert refusal(b"\xff\xd8" + segment(0xE5, b"") * 1001) == (422, text)
        assert refusal(b"\xff\xd8" + b"\xff\xda\0\0" * 101) == (422, text)  # whose length is a lie
    # A preview in a segment, and what telephones put behind the end, are none.
    found = jpeg(64, 3, b"\xff\xda" * 500) + b"\xff\xda" * 500
    assert pixels(found, FEED, 4096).shape == (8, 8, 3)
    usual = encoded(noise((640, 480)), "JPEG", progressive=True, restart_marker_blocks=1)
    assert usual.count(b"\xff\xd0") > 1000
    assert pixels(usual, FEED, 640 * 480).shape == (8, 8, 3)


def png(width, height):
    """A picture whose head alone is true: a few bytes that stand for so many pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def test_bombs_are_refused_by_their_head():
    text = "pixels, at most 1 million are taken; scale it down."
    assert refusal(png(1001, 1000)) == (413, f"The picture has 1,001 x 1,000 {text}")
    assert refusal(png(10_000, 10_000))[0] == 413  # where Pillow warns
    assert refusal(png(60_000, 60_000)) == (413, f"The picture has more {text}")  # where Pillow refuses
    assert refusal(png(1000, 1000))[0] == 422  # small enough to be tried, and then there is nothing in it


def test_pixels_at_the_limit_are_taken(kit):
    assert pixels(kit.picture(size=(10, 10)), FEED, 100).shape == (8, 8, 3)
    assert refusal(kit.picture(size=(10, 10)), 99)[0] == 413
