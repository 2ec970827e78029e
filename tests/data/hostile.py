"""Images and metadata files that are broken, huge, mislabelled or meant to do harm; made by seed."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

SIDE = 8
GOOD = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
OTHER = ("PCX", "TGA", "ICO", "SGI", "DDS", "IM", "MSP", "JPEG2000", "QOI", "EPS", "PDF", "SPIDER", "ICNS", "XBM")
"""What Pillow writes and nobody asked it to read."""
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"

REFUSED, READ, EITHER = "refused", "read", "either"


def image(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    levels = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    return Image.fromarray(np.stack([levels, levels[::-1], levels.T], axis=-1)).convert(mode)


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = picture or image("1" if kind in ("MSP", "XBM") else "F" if kind == "SPIDER" else "RGB")
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """One that claims a size and holds a few bytes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + data + chunk(b"IEND", b"")


def hostile_images(seed: int) -> Iterator[tuple[str, bytes, str]]:
    """(name, content, what is expected of it)."""
    draw = random.Random(seed)
    for kind in GOOD:
        whole = encoded(kind)
        yield f"{kind} under another name", whole, READ
        yield f"{kind} cut", whole[: draw.randrange(len(whole) // 3, len(whole) // 2)], REFUSED
        flipped = bytearray(whole)
        for _ in range(5):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        yield f"{kind} with bits flipped", bytes(flipped), EITHER
    for kind in OTHER:
        yield f"{kind}", encoded(kind), REFUSED
    yield "EPS that never ends", EPS, REFUSED
    yield (
        "PostScript in a DOS wrapper",
        b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS,
        REFUSED,
    )
    yield "OLE, as MIC and FPX are", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), REFUSED
    yield "WMF", b"\xd7\xcd\xc6\x9a\0\0" + bytes(60), REFUSED
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(60), REFUSED
    yield "GRIB", b"GRIB\0\0\0\1" + bytes(60), REFUSED
    yield "MPEG", b"\0\0\1\xb3" + bytes(60), REFUSED
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', REFUSED
    yield "numpy", b"\x93NUMPY\1\0" + bytes(200), REFUSED
    yield "nothing", b"", REFUSED
    yield "null bytes", bytes(500), REFUSED
    yield "noise", draw.randbytes(500), REFUSED
    yield "a page", b"<!doctype html><title>404</title>", REFUSED
    yield "PNG bomb", png(100_000, 100_000), REFUSED
    yield "PNG below Pillow's bound", png(12_000, 12_000), REFUSED
    yield "PNG of no width", png(0, 8), REFUSED
    yield "PNG of a negative width", png(2**32 - 1, 8), REFUSED
    yield "PNG of text without end", png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), REFUSED
    yield "GIF bomb", encoded("GIF")[:6] + struct.pack("<HH", 65_535, 65_535) + encoded("GIF")[10:], REFUSED
    bmp = bytearray(encoded("BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    yield "BMP bomb", bytes(bmp), REFUSED
    yield "PPM bomb", b"P6 60000 60000 255\n" + bytes(100), REFUSED
    yield "PPM of letters", b"P3 8 8 255\n" + b"x " * 200, REFUSED
    jpeg = encoded("JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "JPEG bomb", jpeg[:at] + struct.pack(">HH", 65_500, 65_500) + jpeg[at + 4 :], REFUSED
    yield "32-bit TIFF", encoded("TIFF", image("L").convert("F")), REFUSED
    yield "broken EXIF", encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), EITHER
    for mode, kind in (("RGBA", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG"), ("I;16", "PNG")):
        yield f"{mode} in {kind}", encoded(kind, image("L").convert("I;16") if mode == "I;16" else image(mode)), READ
    frames = [image("L").rotate(90 * i) for i in range(3)]
    yield "animated GIF", encoded("GIF", frames[0], save_all=True, append_images=frames[1:]), READ


LINES = [{"file_name": f"{i}.png", "text": f"caption {i}", "label": "ab"[i % 2]} for i in range(12)]


def _lines(lines: list[Any]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _changed(**values: Any) -> bytes:
    return _lines([{**LINES[0], **values}, *LINES[1:]])


def hostile_metadata(seed: int) -> Iterator[tuple[str, str, bytes, str]]:
    """(name, file, content, what is expected) for the images 0.png to 11.png."""
    draw = random.Random(seed)
    whole = _lines(LINES)
    yield "good", "metadata.jsonl", whole, READ
    yield (
        "a mark of byte order, carriage returns, empty lines",
        "metadata.jsonl",
        (b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n\r\n")),
        READ,
    )
    for name, line_break in (("U+2028", "\u2028"), ("NEL", "\x85"), ("vertical tab", "\x0b"), ("form feed", "\x0c")):
        text = "".join(json.dumps({**line, "text": f"a{line_break}b"}, ensure_ascii=False) + "\n" for line in LINES)
        yield f"{name} in captions", "metadata.jsonl", text.encode(), READ
    for number in range(25):
        yield f"cut {number}", "metadata.jsonl", whole[: draw.randrange(1, len(whole) - 2)], REFUSED
    for number in range(15):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        yield f"flipped {number}", "metadata.jsonl", bytes(flipped), EITHER
    texts: dict[str, dict[str, Any]] = {
        "up": {"file_name": "../0.png"},
        "absolute": {"file_name": "/etc/passwd"},
        "a scheme": {"file_name": "file:///etc/passwd"},
        "null byte": {"file_name": "0.png\0.txt"},
        "no text": {"file_name": 7},
        "a list of names": {"file_name": ["0.png"]},
        "none": {"file_name": None},
        "a folder": {"file_name": "."},
        "no label": {"label": None},
        "empty label": {"label": " "},
        "minus one": {"label": "-1"},
        "label list": {"label": ["a"], "text": None},
        "text and number": {"label": 3},
        "escape": {"label": "\x1b[2J"},
        "line break": {"label": "a\nfairlead: done"},
        "direction": {"label": "a\u202eb"},
        "half a pair": {"label": "\ud800"},
        "half a pair in a caption": {"text": "\udfff"},
        "no caption": {"text": " "},
    }
    for name, values in texts.items():
        yield name, "metadata.jsonl", _changed(**values), REFUSED
    yield "one number among captions", "metadata.jsonl", _changed(text=[1]), REFUSED
    yield "caption of escapes", "metadata.jsonl", _changed(text="\x1b[31m red \n two"), READ
    yield "brackets", "metadata.jsonl", b"[" * 100_000, REFUSED
    yield "nested", "metadata.jsonl", b'{"a":' * 50_000, REFUSED
    yield "digits", "metadata.jsonl", b'{"file_name": ' + b"9" * 5000 + b"}", REFUSED
    yield "lists", "metadata.jsonl", b"[1]\n", REFUSED
    yield "an array", "metadata.jsonl", json.dumps(LINES).encode(), REFUSED
    yield "latin-1", "metadata.jsonl", b'{"file_name": "\xe4.png"}\n', REFUSED
    yield "UTF-16", "metadata.jsonl", whole.decode().encode("utf-16"), REFUSED
    yield "null bytes", "metadata.jsonl", bytes(300), REFUSED
    yield "nothing", "metadata.jsonl", b"", REFUSED
    csv = "file_name,text,label\n" + "".join(f'{i}.png,"one, ""two""\nthree",00{i % 2}\n' for i in range(12))
    yield "good csv", "metadata.csv", csv.encode(), READ
    yield "windows csv", "metadata.csv", csv.replace("\n", "\r\n").encode("utf-8-sig"), READ
    yield "open quote", "metadata.csv", csv.encode() + b'"', REFUSED
    yield "open quote within", "metadata.csv", csv.replace('three"', "three", 1).encode(), REFUSED
    yield "too many fields", "metadata.csv", csv.encode() + b"1.png,a,b,c\n", REFUSED
    yield "a name twice", "metadata.csv", csv.replace("label", "text", 1).encode(), REFUSED
    yield "semicolons", "metadata.csv", csv.replace(",", ";").encode(), REFUSED
    yield "null bytes in csv", "metadata.csv", csv.replace("two", "t\0o").encode(), EITHER
    yield "a long field", "metadata.csv", csv.replace("three", "x" * 200_000, 1).encode(), REFUSED
    yield "an empty label", "metadata.csv", csv.replace(",000", ",", 1).encode(), REFUSED
    yield "only a header", "metadata.csv", b"file_name,text\n", REFUSED
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(LINES), buffer)
    table = buffer.getvalue()
    yield "good parquet", "metadata.parquet", table, READ
    for number in range(10):
        yield f"parquet cut {number}", "metadata.parquet", table[: draw.randrange(4, len(table) - 4)], REFUSED
    for number in range(20):
        flipped = bytearray(table)
        for _ in range(3):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        yield f"parquet flipped {number}", "metadata.parquet", bytes(flipped), EITHER
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"file_name": [["0.png"]] * 12, "text": [{"a": [1]}] * 12}), buffer)
    yield "nested parquet", "metadata.parquet", buffer.getvalue(), REFUSED
    labels = [[f"{i}.png", i % 2] for i in range(12)]
    yield "StyleGAN", "dataset.json", json.dumps({"labels": labels}).encode(), READ
    yield "StyleGAN without labels", "dataset.json", b'{"labels": null}', READ
    yield (
        "StyleGAN with vectors",
        "dataset.json",
        json.dumps({"labels": [[n, [0.5]] for n, _ in labels]}).encode(),
        REFUSED,
    )
    yield "StyleGAN of others", "dataset.json", json.dumps({"labels": [["../x.png", 1]]}).encode(), REFUSED
    yield "StyleGAN of nothing", "dataset.json", json.dumps({"labels": [[None, 1]]}).encode(), REFUSED


def write_image(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
