"""Checkpoints damaged by seed: every field of ``model.json``, its text, the files of tensors, and what they lie in."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairlead.core.strict_json import SEAL, sealed
from fairlead.train.checkpoint import FORMAT, UNSEALED, file_hash

MODES = ("as it is", "resealed", "of 0.1.0")
"""What is done after the damage: nothing; the seal and the hashes of files are made to fit; or there is no seal."""

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**9, 2**31, 2**63, 2**64, -(10**9), 10**18, 10**400, 0.5, -1.5, 1e308, 1e-320,
    float("nan"), float("inf"), -float("inf"), "", "x", "8", "-inf", "words", "classifier", "label", "é\u0301",
    "\u0000", "a" * 100_000, "../../etc/passwd", [], {}, [1, 8, "x"], [[]], {"name": "x"}, {"": {}}, [None] * 3,
    [10**9] * 4, {"width": 10**9, "length": 10**9}, [1] * 200, {"kind": "dit"}, ["zero"] * 10,
)  # fmt: skip


TYPES = ("I32", "F16", "X", "F8_E4M3")


def damaged(source: Path, folder: Path, seed: int, others: list[Path]) -> str:
    """Copy the checkpoint folder ``source`` to ``folder``, damaged; returns what was done.

    Args:
        others: checkpoint folders of other runs, to take files from.
    """
    draw = random.Random(seed)
    shutil.copytree(source, folder)
    mode = MODES[draw.randrange(3)]
    if draw.random() < 0.7:
        about = json.loads((folder / "model.json").read_text())
        done = "; ".join(_field(about, draw) for _ in range(1 + (draw.random() < 0.2)))
        _write(folder, about, mode, original=done if mode == "as it is" else "")
    elif draw.random() < 0.5:
        done = _text(folder / "model.json", draw)
        mode = "as it is"
    else:
        done = _tensors(folder, draw, others)
        if mode != "as it is":
            about = json.loads((folder / "model.json").read_text())
            for part in about["files"]:
                if (folder / f"{part}.safetensors").is_file():
                    about["files"][part] = file_hash(folder / f"{part}.safetensors")
            _write(folder, about, mode)
    return f"{seed}, {mode}: {done}"


def _write(folder: Path, about: dict[str, Any], mode: str, original: str = "") -> None:
    if mode == "resealed":
        about = sealed({**about, "format": about.get("format", FORMAT)})
    elif mode == "of 0.1.0":
        about = {key: value for key, value in about.items() if key != SEAL}
        about["format"] = UNSEALED if about.get("format") == FORMAT else about.get("format")
    (folder / "model.json").write_text(json.dumps(about))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _field(about: dict[str, Any], draw: random.Random) -> str:
    holder, key = draw.choice(list(_places(about)))
    was = repr(holder[key])[:40]
    what = draw.randrange(8)
    if what == 0:
        del holder[key]
        return f"{key!r} ({was}) is gone"
    if what == 1:
        if isinstance(holder, dict):
            holder[draw.choice(["extra", "zeros", "sketch", "patch", "depth", "kind", "text", "image", "latents"])] = (
                draw.choice(STRANGE)
            )
        else:
            holder.insert(draw.randrange(len(holder) + 1), draw.choice([*STRANGE, *holder]))
        return f"something more beside {key!r} ({was})"
    if what == 2 and isinstance(holder, list):
        draw.shuffle(holder)
        return f"the list of {was} shuffled"
    if what in (3, 4) and isinstance(holder[key], int | float):
        factor = draw.choice([-1, 0, 2, 3, 10, 10**6, 1e-3, 0.5])
        holder[key] = holder[key] * factor + draw.choice([0, 0, 1, -1])
        return f"{key!r} was {was}, is {holder[key]!r}"
    holder[key] = draw.choice(STRANGE)
    return f"{key!r} was {was}, is {holder[key]!r:.60}"


def _text(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data))
    loop = path.parent / "loop"
    changes: dict[str, Callable[[], bytes | None]] = {
        "truncated": lambda: bytes(data[:at]),
        "a byte flipped": lambda: bytes(data[:at]) + bytes([data[at] ^ 1 << draw.randrange(8)]) + bytes(data[at + 1 :]),
        "bytes inserted": lambda: bytes(data[:at]) + draw.randbytes(4) + bytes(data[at:]),
        "brackets": lambda: b"[" * 100_000,
        "closed brackets": lambda: b"[" * 50_000 + b"]" * 50_000,
        "objects": lambda: b'{"a":' * 100_000,
        "brackets inside": lambda: bytes(data).rstrip().rstrip(b"}") + b',"x":' + b"[" * 900 + b"]" * 900 + b"}",
        "latin": lambda: bytes(data).replace(b'"', '"é'.encode("latin-1"), 1),
        "utf-16": lambda: bytes(data).decode().encode("utf-16"),
        "empty": lambda: b"",
        "zeros": lambda: bytes(1000),
        "a key twice": lambda: bytes(data).replace(b"{", b'{"format": 2,', 1),
        "digits": lambda: bytes(data).replace(b'"step": ', b'"step": ' + b"9" * 5000, 1),
        "half a pair": lambda: bytes(data).replace(b'"name": "', b'"name": "\\ud800', 1),
        "a folder": lambda: None,
        "a loop": lambda: None,
        "nothing": lambda: None,
    }
    name = draw.choice(list(changes))
    content = changes[name]()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif name == "a folder":
        path.mkdir()
    elif name == "a loop":
        loop.symlink_to(path)
        path.symlink_to(loop)
    return f"model.json: {name} at {at}"


def _tensors(folder: Path, draw: random.Random, others: list[Path]) -> str:
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    at, inside = draw.randrange(len(data)), 8 + draw.randrange(length)
    header = json.loads(bytes(data[8 : 8 + length]))
    other = draw.choice(others)

    def with_header(change: Callable[[dict[str, Any]], None]) -> bytes:
        change(header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + bytes(data[8 + length :])

    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    changes: dict[str, Callable[[], bytes | None]] = {
        "truncated": lambda: bytes(data[:at]),
        "a byte flipped": lambda: bytes(data[:at]) + bytes([data[at] ^ 1 << draw.randrange(8)]) + bytes(data[at + 1 :]),
        "a byte of the header flipped": lambda: (
            bytes(data[:inside]) + bytes([data[inside] ^ 1 << draw.randrange(8)]) + bytes(data[inside + 1 :])
        ),
        "a length of 2**63": lambda: (2**63).to_bytes(8, "little") + bytes(data[8:]),
        "a length of 10**9": lambda: (10**9).to_bytes(8, "little") + bytes(data[8:]),
        "a header of brackets": lambda: (10**5).to_bytes(8, "little") + b"[" * 10**5,
        "a huge shape": lambda: with_header(lambda h: h[name].update(shape=[10**9, 10**9])),
        "another type": lambda: with_header(lambda h: h[name].update(dtype=draw.choice(TYPES))),
        "another name": lambda: with_header(lambda h: h.update({"other": h.pop(name)})),
        "another place": lambda: with_header(lambda h: h[name].update(data_offsets=[0, 4])),
        "turned": lambda: with_header(lambda h: h[name].update(shape=h[name]["shape"][::-1])),
        "empty": lambda: b"",
        "pickled": lambda: b"\x80\x04cos\nsystem\n",
        "of another run": lambda: (other / "ema.safetensors").read_bytes(),
        "of another part": lambda: draw.choice(sorted(folder.glob("*.safetensors"))).read_bytes(),
        "a folder": lambda: None,
        "nothing": lambda: None,
    }
    done = draw.choice(list(changes))
    content = changes[done]()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif done == "a folder":
        path.mkdir()
    return f"{path.name}: {done}"


@contextmanager
def no_more_memory_than(gigabytes: float) -> Iterator[None]:
    """What asks for more than that beside what the process has already fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
