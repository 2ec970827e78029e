"""Runs commands on places that cannot be written or read, and prints how each ended as JSON: a list of [situation,
arguments, exit code, what it printed on standard error]. The user must not be root, who may read and write anything.

    python -m tests.cli.as_nobody FOLDER EVERY

FOLDER is the user's and holds nothing but a training run of 24 steps, called run. EVERY 3 takes a third of all pairs of
a command and a place.
"""

import contextlib
import io
import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core import progress

LONG = "n" * 300

WRITERS = [
    ["sample", "no-model", "--out", "OUT"],
    ["sweep", "no-model", "--out", "OUT"],
    ["tune", "no-model", "--out", "OUT"],
    ["explain", "no-model", "--guidance", "cfg(2)", "--out", "OUT"],
    ["interpolate", "no-model", "--cond", "a", "b", "--out", "OUT"],
    ["edit", "no-model", "--images", "no-images", "--cond", "a", "--out", "OUT"],
    ["measure", "no-real", "no-fake", "--out", "OUT"],
    ["export", "no-model", "OUT"],
    ["distill", "no-model", "--guidance", "cfg(2)", "--out", "OUT"],
    ["train", "--data", "no-data", "--out", "OUT"],
    ["train-classifier", "--data", "no-data", "--out", "OUT"],
    ["train-autoencoder", "--data", "no-data", "--out", "OUT"],
    ["demo", "--out", "OUT"],
    ["measure", "no-real", "no-fake", "--json", "OUT/numbers.json"],
    ["doctor", "no-model", "--json", "OUT/numbers.json"],
]
"""Their other arguments are wrong too: the place comes first."""

READERS = [
    ["sample", "IN", "--out", "new"],
    ["sweep", "IN", "--out", "new"],
    ["tune", "IN", "--out", "new"],
    ["explain", "IN", "--guidance", "cfg(2)", "--out", "new"],
    ["interpolate", "IN", "--cond", "a", "b", "--out", "new"],
    ["edit", "IN", "--images", "digits", "--cond", "a", "--out", "new"],
    ["edit", "run", "--images", "IN", "--cond", "seven", "--out", "new"],
    ["edit", "run", "--images", "digits", "--mask", "IN", "--cond", "seven", "--out", "new"],
    ["edit", "run", "--inverted", "IN", "--cond", "seven", "--out", "new"],
    ["doctor", "IN"],
    ["export", "IN", "new"],
    ["distill", "IN", "--guidance", "cfg(2)", "--out", "new"],
    ["push", "IN", "owner/name"],
    ["info", "IN"],
    ["app", "IN"],
    ["report", "IN"],
    ["train", "--data", "IN", "--out", "new"],
    ["train-classifier", "--data", "IN", "--out", "new"],
    ["train-autoencoder", "--data", "IN", "--out", "new"],
    ["train", "--latents", "IN", "--out", "new"],
    ["train", "--pipeline", "IN", "--lora", "4", "--data", "digits", "--out", "new"],
    ["train", "--net", "UNet2DModel", "--net-config", "IN", "--out", "new"],
    ["measure", "IN", "pictures"],
    ["measure", "pictures", "IN"],
    ["measure", "pictures", "pictures", "--features", "random", "--prompts", "IN"],
    ["measure", "pictures", "pictures", "--features", "dinov2:IN"],
    ["sweep", "run", "--data", "IN", "--out", "new"],
    ["sample", "run", "--cond", "seven", "--guidance", "auto(2, 'IN')", "--out", "new"],
    ["sample", "run", "--cond", "seven", "--guidance", "classifier(2, 'IN')", "--out", "new"],
]


def make_places() -> tuple[dict[str, str], dict[str, str]]:
    """Situations of places to write to, and to read from."""
    for name in ("locked/inside", "readonly", "unreadable", "pictures"):
        Path(name).mkdir(parents=True)
    for i in range(4):
        Image.new("L", (8, 8), 60 * i).save(f"pictures/{i}.png")
    Path("file").write_text("words")
    Path("secret").write_text("{}")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    os.chmod("secret", 0)
    os.chmod("locked", 0)
    os.chmod("unreadable", 0)
    os.chmod("readonly", 0o555)
    both = {
        "behind a folder without permission": "locked/inside",
        "a name of 300 bytes": LONG,
        "through a file": "file/inside",
        "a loop of links": "loop",
        "through a loop of links": "loop/inside",
        "a null character": "nu\0ll",
        "a pipe": "pipe",
        "a socket": "socket",
        "a home that nobody has": "~nobody-of-this-name/inside",
    }
    write = {
        **{name: path for name, path in both.items() if not path.startswith("~")},
        "a folder that may not be written": "readonly",
        "below a folder that may not be written": "readonly/a/b",
        "a file": "file",
        "a link to nothing": "dangling",
        "a long name in a folder yet to be made": f"fresh/{LONG}",
        "a device": "/dev/null",
        "the kernel's own": "/proc/new",
    }
    read = {**both, "a folder that may not be read": "unreadable", "a file that may not be read": "secret"}
    return write, read


def outcome(situation: str, arguments: list[str]) -> list[object]:
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            code: object = main(arguments)
        except BaseException:
            code = traceback.format_exc()
    return [situation, arguments, code, said.getvalue()]


def filled(arguments: list[str], name: str, place: str) -> list[str]:
    return [argument.replace(name, place) for argument in arguments]


def outcomes(every: int) -> Iterator[list[object]]:
    write, read = make_places()
    asked = [(place, filled(words, "OUT", path)) for place, path in write.items() for words in WRITERS]
    asked += [(place, filled(words, "IN", path)) for place, path in read.items() for words in READERS]
    for situation, arguments in asked[::every]:
        yield outcome(situation, arguments)
    (last,) = Path("run").glob("step-*24")
    for name in ("ema.safetensors", "model.json"):
        os.chmod(last / name, 0)
        for arguments in (["sample", "run", "--out", "new"], ["doctor", "run"], ["export", "run", "new"]):
            yield outcome(f"{name} may not be read", arguments)
    os.chmod(last, 0)
    yield outcome("a checkpoint that may not be read", ["info", "run"])
    for path in (Path("locked"), Path("unreadable"), last):
        os.chmod(path, 0o700)


if __name__ == "__main__":
    torch.set_num_threads(1)
    progress.QUIET = 1e6  # what a slow machine would say in between
    os.chdir(sys.argv[1])
    found = list(outcomes(int(sys.argv[2])))
    print(json.dumps({"outcomes": found, "left": sorted(os.listdir()), "uid": os.getuid()}))
