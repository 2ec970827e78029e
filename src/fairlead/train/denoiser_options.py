"""The options of the training of a denoiser: its network, what it is conditioned on, latents, a pipeline's adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typing_extensions import Doc

from fairlead.core.arguments import as_names, as_path
from fairlead.core.errors import UsageError
from fairlead.core.places import is_folder
from fairlead.core.registry import lookup, names
from fairlead.core.strict_json import read_json
from fairlead.nets.build import PRESETS, latent_preset
from fairlead.train.config import RECIPES, Recipe, Weighting
from fairlead.train.options import ScheduleName, TrainOptions

if TYPE_CHECKING:
    from fairlead.data.images import ImageData

_OF_PIPELINE = (
    *("net", "net_config", "channels", "conditioning", "latents", "schedule", "objective", "weighting", "internal"),
    *("conditions", "image", "text", "text_read", "text_sketch", "text_null", "text_windows"),
)
"""Options that a pipeline decides."""


@dataclass(frozen=True)
class DenoiserOptions(TrainOptions):
    """Of a denoiser."""

    recipe: Annotated[str, Doc(f"Preset of all below: {', '.join(RECIPES)}.")] = "digits"
    net: Annotated[
        str | None,
        Doc(f"Network preset (or, beside net-config, a class of networks of diffusers): {', '.join(PRESETS)}."),
    ] = None
    net_config: str | Path | None = None
    """Settings of a network of diffusers: a JSON file, or a folder with config.json. Sizes, channels and widths that
    follow from the data can be omitted. The schedule is then vp_linear by default; `fairlead export` makes a
    pipeline of the run."""
    latents: str | None = None
    """Denoise latents of an autoencoder in place of pixels: a folder of train-autoencoder or of diffusers, or a hub
    name."""
    schedule: ScheduleName = None
    conditioning: str | None = None
    """How the class enters the network: adaptive (normalisation), add (to the time embedding), concat (one-hot), fuse
    (concatenated to the time embedding, through an MLP; a DiT takes this or adaptive)."""
    objective: str | None = None
    """What the network predicts: eps, v, x0, flow."""
    weighting: Annotated[str | None, Doc(f"Loss weight over noise levels: {', '.join(get_args(Weighting))}.")] = None
    internal: float | None = None
    """Give the network a head in its middle, for guidance away from it (`internal(1.5)`), and its loss this weight,
    such as 0.5."""
    guided: float | None = None
    """Train the network to predict in one row what cfg at this scale, such as 1.5, would predict; a training step
    costs a third more (2502.12154)."""
    pipeline: str | None = None
    """Train adapters for this pipeline of Stable Diffusion, a folder or a hub name, on captioned images; `fairlead
    export` writes what its load_lora_weights reads."""
    lora: int | None = None
    """Rank of the adapters of --pipeline, e.g. 8."""
    conditions: tuple[str, ...] = ()
    """What the network is conditioned on: label, text, image, attributes of the data such as ink, or none. By
    default as the recipe says."""
    image: Annotated[
        str | None,
        Doc(f"What the condition image shows: {', '.join(names('degradation'))}, as in inpaint(low=0.2)."),
    ] = None
    text: str | None = None
    """Text encoder: words (a small one inside the network), clip:SOURCE, t5:SOURCE, sd3:SOURCE, sentence:SOURCE, with a
    folder or a hub name as SOURCE."""
    text_read: int | None = None
    """Steps in which the encoder of words learns to read the captions before training; it is then frozen. 0: it
    trains together with the network."""
    text_sketch: int | None = None
    """Steps in which, after that, the encoder learns to draw the average image of a caption, which is then concatenated
    to the noisy image."""
    text_null: Literal["learned", "empty"] | None = None
    """The null of text: a learned token of the network (default), or the encoder's states of an empty string."""
    text_tokens: int | None = None
    """Tokens of a prompt (of one window) that a pretrained encoder reads. By default all that it can, up to 512, which
    costs time: choose as many as the captions need."""
    text_windows: int | None = None
    """Windows of the encoder's length that a prompt may have."""
    text_long: Literal["refuse", "cut"] | None = None
    """What to do with a longer prompt: refuse (the default) and name the words that would be lost, or cut."""
    drop: float | None = None
    """Probability of dropping a condition of a sample."""
    drops: dict[str, float] = field(default_factory=dict)
    """Other probabilities for single conditions: --drops text 0.2 label 0.5."""
    drop_all: float | None = None
    """Additional probability of dropping all conditions of a sample at once."""
    optimizer: str | None = None
    """adamw, or muon: matrices by orthogonal updates, all else by adamw; needs fewer steps, each more expensive."""
    snapshot_every: int | None = None
    """Keep the averaged weights of every so many steps, as weak models for autoguidance."""
    validate_every: int | None = None
    """Steps between two measurements of the loss on held-out images, by noise level, in OUT/validation.csv; the last
    step is always measured. Default: ten times in a run, at most every 100 steps; 0 for never."""
    preview_every: int = 0
    """Steps between preview pictures, one column per class, in OUT/previews; 0 for none."""

    def _names(self, recipe: Recipe, data: ImageData | None = None) -> tuple[str, ...]:
        if self._base is not None:
            return ("text",)
        names = as_names("conditions", self.conditions)
        if not names:
            names = recipe.conditions
            if data is not None and len(data.classes) == 1:
                names = tuple(name for name in names if name != "label")
        return () if names == ("none",) else names

    def _text(self) -> tuple[str, str, dict[str, Any]]:
        settings = {
            "read": self.text_read, "sketch": self.text_sketch, "tokens": self.text_tokens,
            "windows": self.text_windows, "long": self.text_long,
        }  # fmt: skip
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        if self._base is not None:
            return self._base.text, "empty", {**given, "masked": False}
        if "text" not in self._names(RECIPES[self.recipe]):
            unused = [name for name in ("text", "text_null") if getattr(self, name) is not None]
            unused += [f"text_{name}" for name in given]
            if unused:
                raise UsageError(
                    f"--{unused[0].replace('_', '-')}: the network is not conditioned on text; add text to --conditions"
                )
            return "words", "learned", {}
        if self.net_config is None:
            text = self.text or "words"
            own = RECIPES[self.recipe].text if text == "words" else {}
            return text, self.text_null or "learned", {**own, **given}
        if self.text is None:
            raise UsageError("--text: networks of diffusers read an encoder's states; give clip:SOURCE or t5:SOURCE")
        if self.text_null == "learned":
            raise UsageError("--text-null learned: the null of a pipeline is the empty string; leave it out")
        return self.text, "empty", {**given, "masked": lookup("loader", "network_call")(self._of_diffusers()[0]).masked}

    def _net(self, recipe: Recipe, size: Sequence[int], presets: Mapping[str, dict[str, Any]]) -> str:
        if self.latents is None:
            return super()._net(recipe, size, presets)
        return self.net or latent_preset(size)

    def _check_size(self, recipe: Recipe, size: Sequence[int] | None, presets: Mapping[str, dict[str, Any]]) -> None:
        if self.fit == "random" and (self.latents is not None or self.pipeline is not None):
            raise UsageError(
                "--fit random: latents are encoded once, of the same part of each image; take --fit centre"
            )
        if self.latents is None and self.net_config is None and self.pipeline is None:
            super()._check_size(recipe, size, presets)

    def _process(self, recipe: Recipe) -> dict[str, Any]:
        if self._base is not None:
            mild = {} if self.lr is not None else {"lr": 1e-4}
            return {"schedule": self._base.schedule, "objective": self._base.objective, "weighting": "uniform", **mild}
        if self.schedule is None and self.net_config is not None and "schedule" not in recipe.train:
            return {"schedule": {"name": "vp_linear"}}
        return super()._process(recipe)

    @cached_property
    def _base(self) -> Any:
        """The pipeline that adapters are trained for."""
        if (self.pipeline is None) != (self.lora is None):
            raise UsageError("--pipeline and --lora go together: the pipeline, and the rank of its adapters, e.g. 8")
        if self.pipeline is None:
            return None
        for name in _OF_PIPELINE:
            if getattr(self, name) not in (None, ()):
                raise UsageError(f"--{name.replace('_', '-')}: the pipeline decides it; leave it out")
        return lookup("loader", "adapters").of(self.pipeline)

    def _net_config(
        self,
        recipe: Recipe,
        data: tuple[int, Sequence[int], int],
        presets: Mapping[str, dict[str, Any]],
        changes: Mapping[str, Any],
    ) -> dict[str, Any]:
        channels, (height, width), classes = data
        if height != width and (self._base is not None or self.net_config is not None):
            what = "adapters of a pipeline" if self._base is not None else "networks of diffusers"
            raise UsageError(
                f"samples are {height}x{width}, {what} are trained on squares; pass one side, --size N, or take a "
                "network preset"
            )
        if self._base is not None:
            assert self.lora is not None
            return dict(self._base.net(channels, height, self.lora, changes["text"]))
        changes = {**changes, "internal": True} if self.internal else changes
        if self.net_config is None:
            if self.net is not None and self.net not in presets and self.net.endswith("Model"):
                raise UsageError(f"--net {self.net}: a network of diffusers needs its settings; give --net-config FILE")
            return super()._net_config(recipe, data, presets, changes)
        network, config = self._of_diffusers()
        refused = [name for name in changes if name != "text"]
        if refused:
            raise UsageError(f"{network} takes no {refused[0]!r}; leave it out, or take a network preset")
        made: dict[str, Any] = lookup("loader", "network")(
            network, config, channels, height, classes, text=changes.get("text")
        )
        return made

    def _of_diffusers(self) -> tuple[str, dict[str, Any]]:
        """Class and settings of the network of diffusers."""
        assert self.net_config is not None
        path = as_path("net_config", self.net_config)
        path = path / "config.json" if is_folder(path) else path
        try:
            config = read_json(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"--net-config {path} cannot be read as JSON ({error})") from error
        network = self.net or (config.get("_class_name") if isinstance(config, dict) else None)
        if not isinstance(config, dict) or network is None:
            raise UsageError(f"--net-config {path}: expected an object of settings, and their class in --net")
        return str(network), config

    def _latents(self, data: ImageData) -> dict[str, Any]:
        source = self.latents if self._base is None else str(self._base.folder)
        return {} if source is None else dict(lookup("loader", "autoencoder")(source).config(data.shape))

    def _image(self, recipe: Recipe) -> str:
        if "image" not in self._names(recipe):
            if self.image is not None:
                raise UsageError("--image: the network is not conditioned on an image; add image to --conditions")
            return ""
        from fairlead.data.degrade import read_degradation

        return str(read_degradation(self.image or "superres"))
