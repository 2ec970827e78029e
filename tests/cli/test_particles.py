"""``fairlead sample --particles``."""

import json
from pathlib import Path

import pytest

from fairlead.cli import main


def test_particles_on_the_command_line_are_those_of_python(tiny_run: Path, tmp_path: Path) -> None:
    import torch

    import fairlead as fl
    from fairlead.data.decode import decode_images

    command = ["sample", str(tiny_run), "--cond", "seven", "--n", "2", "--steps", "4", "--sampler", "ddpm"]
    more = ["--particles", "3", "--every", "2", "--pick", "best", "--reward", "2 * brightness(0.6)"]
    assert main([*command, *more, "--out", str(tmp_path / "out")]) == 0
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["particles"] == {"count": 3, "every": 2, "pick": "best", "below": 0.5}
    assert (about["reward"], about["rows"]) == ("2 * brightness(0.6)", 2 * 3 * 4)
    run = fl.sample(
        str(tiny_run), "seven", n=2, steps=4, sampler="ddpm", particles=fl.Particles(3, 2, "best"),
        reward=2 * fl.brightness(0.6),
    )  # fmt: skip
    stored = [decode_images([(str(tmp_path / "out" / f"0000{i}.png"), None)], None, "x")[0] for i in range(2)]
    assert run.images is not None
    assert torch.equal(run.images, torch.stack(stored))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--every", "2"], "--every is an option of particles"),
        (["--reward", "brightness(0.5)"], "pass particles=8"),
        (["--particles", "4"], "nothing tells them apart"),
        (["--particles", "4", "--reward", "brightness(0.5)"], "take ddpm"),
        (["--particles", "4", "--reward", "brightness(2)", "--sampler", "ddpm"], "number from 0 to 1"),
        (["--particles", "4", "--reward", "sparkle()", "--sampler", "ddpm"], "unknown"),
        (["--particles", "4", "--reward", 'judged("eleven")', "--sampler", "ddpm"], "eleven"),
        (["--particles", "4", "--reward", 'label("seven")', "--sampler", "ddpm"], "seven"),
        (["--guidance", "fkc(cfg(3))", "--cond", "seven"], "pass particles=16"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(["sample", str(tiny_run), "--n", "1", *more, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
