"""``fl.edit``: what each method does with what it is given, what it writes, what it refuses before any work."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.report.edits import edit
from fairlead.sample.edit.inversion import invert
from fairlead.sample.edit.inverted import Inversion
from fairlead.sample.run import sample
from tests.guide.toy import NETWORK
from tests.sample.edit.test_start import HALF, IMAGES

METHODS = ("sdedit", "inversion", "fixed-point", "null-text", "negative")


def options(method: str) -> dict[str, Any]:
    given: dict[str, Any] = {"method": method, "guidance": "cfg(2)", "steps": 3}
    return given if method == "sdedit" else {**given, "source": "two"}


def test_sdedit_is_a_run_from_the_images() -> None:
    found = edit(NETWORK, IMAGES, "one", strength=0.7, mask=HALF, resample=2, steps=3, seed=4)
    expected = sample(NETWORK, "one", seeds=[4, 5, 6], start=IMAGES, strength=0.7, mask=HALF, resample=2, steps=3)
    assert torch.equal(found.run.x0, expected.x0)
    assert found.before is not None
    assert torch.equal(found.before, IMAGES)


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_edit_by_condition_samples_from_what_was_inverted(method: Any) -> None:
    found = edit(NETWORK, IMAGES, "one", **options(method))
    inversion = invert(NETWORK, IMAGES, "two", method=method, guidance="cfg(2)", steps=3)
    assert found.inversion is not None
    assert torch.equal(found.inversion.x_t, inversion.x_t)
    expected = sample(NETWORK, "one", start=inversion, guidance="cfg(2)", steps=3)
    assert torch.equal(found.run.x0, expected.x0)
    itself = edit(NETWORK, IMAGES, "two", **options(method))
    assert itself.inversion is not None
    torch.testing.assert_close(itself.run.x0, itself.inversion.back)


def test_the_source_is_inverted_at_a_scale_of_its_own() -> None:
    found = edit(NETWORK, IMAGES, "one", source="two", method="inversion", steps=3, guidance="cfg(2)",
                 source_guidance="none")  # fmt: skip
    assert found.inversion is not None
    assert torch.equal(found.inversion.x_t, invert(NETWORK, IMAGES, "two", steps=3).x_t)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written(method: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = edit(NETWORK, IMAGES, ["one", "three", "one"], out=out, **options(method))
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    expected = {"00000.png", "00001.png", "00002.png", "run.json", "grid.png"}
    assert names == expected | ({"inversion.safetensors"} if method != "sdedit" else set())
    about = json.loads((out / "run.json").read_text())
    assert about["edit"]["method"] == method
    assert json.loads(Image.open(out / "00001.png").text["fairlead"])["cond"] == "three"  # type: ignore[attr-defined]
    assert "3 images edited" in str(found)
    with pytest.raises(UsageError, match="already holds a run"):
        edit(NETWORK, IMAGES, "one", out=out)
    if method != "sdedit":
        again = edit(NETWORK, cond=["one", "three", "one"], inverted=out / "inversion.safetensors", guidance="cfg(2)")
        assert torch.equal(again.run.x0, found.run.x0)
        assert Inversion.load(out / "inversion.safetensors").method == method


def test_files_are_brought_to_the_size_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("L", (40, 24), 90).save(path)
    with pytest.raises(UsageError, match=r"start: expected images \[n, 1, 8, 8\]"):
        edit(NETWORK, path, "one", steps=2)
    found = edit(NETWORK, path, "one", steps=2, resize=True)
    assert found.before is not None
    assert found.before.shape == (1, 1, 8, 8)


def test_one_image_becomes_several() -> None:
    found = edit(NETWORK, IMAGES, ["one", "three"], n=1, source="two", method="inversion", steps=2)
    assert found.changes().shape == (2,)
    assert found.grid(NETWORK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": None}, "images: expected images to edit"),
        ({"method": "p2p"}, "unknown method 'p2p'"),
        ({"source": "two"}, "source: method 'sdedit' does not read it"),
        ({"rounds": 3}, "rounds: method 'sdedit' does not read it"),
        ({"method": "inversion", "mask": HALF}, "mask: method 'inversion' does not read it"),
        ({"method": "negative", "source_guidance": "cfg(2)"}, "method 'negative' inverts without guidance"),
        ({"method": "inversion", "sampler": "heun"}, "sampler 'heun': method 'inversion' only works with ddim"),
        ({"method": "inversion", "strength": 2}, "strength: expected"),
        ({"method": "inversion", "source": "eleven"}, "eleven"),
        ({"method": "inversion", "cond": "eleven"}, "eleven"),
        ({"method": "inversion", "cond": ["one", "two"]}, "cond gives 2, start gives 3"),
        ({"n": 0}, "n: expected an integer"),
        ({"seed": -1}, "seed"),
        ({"strength": 0}, "strength: expected"),
        ({"mask": torch.ones(8, 8)}, "the whole image"),
        ({"steps": 0}, "steps 0"),
    ],
)
def test_what_cannot_be_edited_is_one_line_before_any_work(given: dict[str, Any], message: str) -> None:
    def never(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        raise AssertionError("the network was called")

    given = {"images": IMAGES, "cond": "one", **given}
    with pytest.raises(UsageError, match=message):
        edit(replace(NETWORK, denoiser=never), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": IMAGES}, "images: inverted has its own"),
        ({"source": "two"}, "source: inverted has its own"),
        ({"strength": 0.5}, "strength: inverted has its own"),
        ({"method": "negative"}, "the inversion is by 'inversion'"),
        ({"steps": 4}, "steps 4: the inversion is of steps 3"),
    ],
)
def test_what_an_inversion_has_of_its_own(given: dict[str, Any], message: str) -> None:
    found = fl.invert(NETWORK, IMAGES, "two", steps=3)
    with pytest.raises(UsageError, match=message):
        edit(NETWORK, cond="one", inverted=found, **given)
