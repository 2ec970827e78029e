"""What a training is asked for: the options of the commands and of ``fl.train``, and the training that they make.

Importing this costs no torch: the command line's help is made from it.

Over 300 lines, as every option has its line of help.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typing_extensions import Doc

from fairlead.core.arguments import as_path
from fairlead.core.errors import UsageError, unknown
from fairlead.core.hold import shared_hold
from fairlead.core.launch import Launch
from fairlead.core.places import check_folder
from fairlead.core.progress import bars, counting_bar, silent, working
from fairlead.core.registry import lookup, names
from fairlead.core.signals import saving_ignored
from fairlead.nets.build import AUTOENCODER_PRESETS, CLASSIFIER_PRESETS, autoencoder_preset, net_config
from fairlead.nets.sizes import check_fits, preset_for
from fairlead.train.config import AUTOENCODER_RECIPES, CLASSIFIER_RECIPES, Recipe, TrainConfig

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.train.loop import Training


ScheduleName = Annotated[str | None, Doc(f"Noise schedule: {', '.join(n for n in names('schedule') if n != 'table')}.")]
DataName = Annotated[
    str | None,
    Doc(f"A name ({', '.join(names('data'))}), a folder of images or tables, a table, or a hub name owner/name."),
]
"""Where the data of a command are."""
DATA_OPTIONS = ("size", "limit", "flip", "image_column", "label_column", "caption_column", "fit")
"""Those that are arguments of ``load_data``."""
OutFolder = Annotated[Path, Doc("Folder of the run.")]


@dataclass(frozen=True)
class TrainOptions:
    """What every training has; the names of a recipe's settings are those of ``TrainConfig``.

    None is what the recipe says.
    """

    out: str | Path
    """Folder of the run."""
    recipe: str = "digits"
    """Preset of all below."""
    data: Any = None
    """A name, a folder or a hub name as ``fl.load_data`` takes it; or a set in memory, as ``fl.data`` makes it, or two,
    to train on and to hold out."""
    size: int | str | None = None
    """Resize images to this size: a side in pixels, or height x width such as 64x96."""
    fit: Literal["centre", "random", "resize", "pad"] | None = None
    """How images are resized: centre crop (the default), random crop, resize (stretched), pad (on black)."""
    limit: int | None = None
    """Use at most so many images."""
    image_column: str | None = None
    """Column (or array of a .npz) of the images or the names of their files; by default one of a known name."""
    label_column: str | None = None
    """Column (or array) of the labels; by default one of a known name."""
    caption_column: str | None = None
    """Column of the captions, text or lists of text; by default caption, captions, text or prompt, if there is one."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded instead of refusing the data; they are named either way."""
    flip: bool | None = None
    """Mirror images at random; by default only colour images are."""
    net: str | None = None
    """Network preset."""
    channels: int | None = None
    """Width of the network's first level."""
    steps: int | None = None
    """Optimiser steps."""
    batch_size: int | None = None
    """Samples per step, over all processes."""
    accumulate: int | None = None
    """Number of parts in which a process computes its share of a batch: less memory, the same step up to rounding."""
    lr: float | None = None
    """Peak learning rate."""
    warmup: int | None = None
    """Steps over which the learning rate rises from 0; at most half of all steps."""
    ema: float | Literal["power"] | None = None
    """Decay of the average of the weights; or power: averages from which one of any width is rebuilt afterwards, with
    `--weights ema:0.08` or RUN@ema:0.08."""
    precision: str | None = None
    """fp32, bf16, or auto (bf16 where the processor has matrix units for it)."""
    seed: int | None = None
    """Decides all random draws."""
    checkpoint_every: int | None = None
    """Steps between checkpoints that can be resumed; the last step is always saved."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints, by default 10; 0 for never."""
    keep: int | None = None
    """Number of resumable checkpoints that are kept, the last ones; by default 1."""
    compile: bool = False
    """Compile the network first: worth it for long trainings; weights differ by rounding."""
    tracker: str | None = None
    """A tracker of accelerate, such as tensorboard or wandb; its files go into OUT."""
    init: str | Path | None = None
    """Start from the averaged weights of another run (RUN, RUN@step500), as far as they fit; what does not is said."""
    resume: bool = False
    """Continue the run in OUT from its last checkpoint; more --steps than it was begun with go on further."""

    @contextmanager
    def started(
        self, recipes: Mapping[str, Recipe], presets: Mapping[str, dict[str, Any]], net: Sequence[str] = ("channels",)
    ) -> Iterator[Training]:
        """The training, with its folder held until the block is through. See :meth:`start`."""
        with saving_ignored(), shared_hold(self.folder):
            yield self.start(recipes, presets, net)

    @property
    def folder(self) -> Path:
        """OUT."""
        return as_path("out", self.out)

    def start(
        self, recipes: Mapping[str, Recipe], presets: Mapping[str, dict[str, Any]], net: Sequence[str] = ("channels",)
    ) -> Training:
        """Load the data, put the configuration together and say what will be trained; ``net``: options that are
        arguments of the network."""
        from fairlead.data.arrays import with_held_out
        from fairlead.data.hub import load_data
        from fairlead.data.images import ImageData
        from fairlead.data.own.fitting import as_size, size_text
        from fairlead.train.conditions import asked, rule_of_words
        from fairlead.train.environment import check_environment, resolve_precision, training_device
        from fairlead.train.loop import Training
        from fairlead.train.tasks import DENOISE, task_of
        from fairlead.train.weights.initial import initial_config

        recipe, device = self._recipe(recipes), training_device()
        init = {} if self.init is None else initial_config(self.init, self.folder if self.resume else None)
        precision: Any = self.precision or recipe.train.get("precision", "auto")
        check_environment(resolve_precision(precision, device), device)
        changes = self._given([field.name for field in fields(TrainConfig)])
        check_folder(self.folder)
        put_together = ("net", "data", "schedule", "text", "image", "latents", "init")
        changes = {name: value for name, value in changes.items() if name not in put_together}
        changes |= self._process(recipe)
        first, _ = with_held_out(self.data)
        given = {"spec": recipe.data if first is None else first, **self._given(DATA_OPTIONS)}
        given |= {"skip_broken": True} if self.skip_broken else {}
        if (sides := as_size(self.size, "--size")) is not None:
            given["size"] = sides[0] if sides[0] == sides[1] else size_text(sides)
        self._check_size(recipe, sides, presets)
        if isinstance(first, ImageData):
            data = given.pop("spec")
            if given:
                raise UsageError(f"--{next(iter(given))}: the data are in memory already; leave it out")
        else:
            with working(f"reading data {given['spec']!r}"):
                data = load_data(**given, progress=bars if Launch.here().main else silent)
        image = self._image(recipe)
        encoder, null, settings = self._text()
        settings = settings | (rule_of_words(self.folder) if self.resume else {})
        classes, inputs, text = asked(data, self._names(recipe, data), encoder, null, settings, image or "superres")
        latents = self._latents(data)
        channels_in, *seen = latents["shape"] if latents else data.shape
        config = TrainConfig(
            self._net_config(recipe, (channels_in, seen, classes), presets, {**inputs, **self._given(net)}),
            given,
            text=text,
            latents=latents,
            image=image,
            init=init,
            **{**recipe.train, **changes},
        )
        with (
            counting_bar("encoding images", len(data) * (2 if data.flip else 1)) as encoded,
            counting_bar(
                "reading and sketching" if text.get("sketch") else "reading",
                text.get("read", 0) + text.get("sketch", 0),
                "step",
            ) as read,
        ):
            trackers = [self.tracker] if self.tracker else None
            with working("preparing the training"):
                training = Training(data, config, self.folder, self.resume, trackers, encoded, read, self.compile)
        if training.accelerator.is_main_process:
            names_of_conditions = " and ".join(training.drops) or "nothing"
            conditions_text = (
                "" if task_of(config.objective) is not DENOISE else f", conditioned on {names_of_conditions}"
            )
            conditions_text = _as_latents(training) + conditions_text
            kind = config.net["kind"]
            network = "" if kind in ("diffusers", "lora") else f"network {self._net(recipe, seen, presets)}, "
            print(
                f"{len(data):,} images {'x'.join(map(str, data.shape))} of {data.name}, {len(data.classes)} classes"
                f"{conditions_text}; {network}{training.parameters:,} parameters, {config.objective} objective, "
                f"{training.precision}{', compiled' * training.compiled}; {self.folder}"
            )
            for note in data.notes:
                print(f"  {note}")
            for note in training.notes:
                print(f"{self.folder} {note}", file=sys.stderr)
        return training

    def _recipe(self, recipes: Mapping[str, Recipe]) -> Recipe:
        if self.recipe not in recipes:
            raise unknown("recipe", self.recipe, recipes)
        return recipes[self.recipe]

    def _net(self, recipe: Recipe, size: Sequence[int], presets: Mapping[str, dict[str, Any]]) -> str:
        """The preset, for samples of this height and width."""
        return self.net or preset_for(size, presets, recipe.net)

    def _check_size(self, recipe: Recipe, size: Sequence[int] | None, presets: Mapping[str, dict[str, Any]]) -> None:
        """Refuse a --size that no network fits before any image is read."""
        if size is not None and (preset := self._net(recipe, size, presets)) in presets:
            check_fits(preset, presets[preset], size, presets, images=True)

    def _net_config(
        self,
        recipe: Recipe,
        data: tuple[int, Sequence[int], int],
        presets: Mapping[str, dict[str, Any]],
        changes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Configuration of the network for ``data``: channels, size, classes."""
        channels, size, classes = data
        return net_config(self._net(recipe, size, presets), channels, size, classes, presets=presets, **changes)

    def _names(self, recipe: Recipe, data: ImageData | None = None) -> tuple[str, ...]:
        """The conditions; of ``data`` of one class, by default not the label, which says nothing."""
        return recipe.conditions

    def _process(self, recipe: Recipe) -> dict[str, Any]:
        """The noise schedule, and settings that go with it, where they are not the recipe's."""
        name = getattr(self, "schedule", None)
        if name is None:
            return {}
        lookup("schedule", name)
        return {"schedule": {"name": name}}

    def _latents(self, data: ImageData) -> dict[str, Any]:
        """Configuration of the autoencoder, {} for pixels."""
        return {}

    def _text(self) -> tuple[str, str, dict[str, Any]]:
        """Text encoder, what stands for no text, settings of the encoder."""
        return "words", "learned", {}

    def _image(self, recipe: Recipe) -> str:
        """What is shown of the images."""
        return ""

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        values = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in values.items() if value not in (None, {})}


def _as_latents(training: Training) -> str:
    """``, as latents 4x7x7 of standard deviation 1.00``"""
    from fairlead.data.latents import LatentBatches

    if not isinstance(training.batches, LatentBatches):
        return ""
    latents = training.batches.latents
    std = latents.std() * latents.scale
    if not 0.5 < std < 2:
        print(
            f"latents of these images have standard deviation {std:.2f} at the autoencoder's scaling_factor "
            f"{latents.scale:.4g}, and noise schedules are made for 1: it was measured on other images, or never",
            file=sys.stderr,
        )
    return f", as latents {'x'.join(map(str, latents.shape))} of standard deviation {std:.2f}"


@dataclass(frozen=True)
class ClassifierOptions(TrainOptions):
    """Of a classifier of noisy images."""

    recipe: Annotated[str, Doc(f"Preset of all below: {', '.join(CLASSIFIER_RECIPES)}.")] = "digits"
    net: Annotated[str | None, Doc(f"Network preset: {', '.join(CLASSIFIER_PRESETS)}.")] = None
    schedule: ScheduleName = None


@dataclass(frozen=True)
class AutoencoderOptions(TrainOptions):
    """Of an autoencoder."""

    recipe: Annotated[
        str | None,
        Doc(
            f"Preset of all below: {', '.join(AUTOENCODER_RECIPES)}; by default the one named like the data, else "
            "digits."
        ),
    ] = None  # type: ignore[assignment]
    net: Annotated[
        str | None,
        Doc(f"Network preset, how much smaller latents are: {', '.join(AUTOENCODER_PRESETS)}."),
    ] = None
    latent: int | None = None
    """Channels of the latents."""
    objective: Literal["l1", "l2"] | None = None
    """Error of the reconstruction: l1, absolute, or l2, squared."""
    optimizer: str | None = None
    """adamw, or muon: matrices by orthogonal updates, all else by adamw; small shapes come earlier, each step is
    more expensive."""
    kl: float | None = None
    """Weight of the KL divergence to N(0, 1) against the error summed over an image."""

    def _recipe(self, recipes: Mapping[str, Recipe]) -> Recipe:
        if self.recipe is not None:
            return super()._recipe(recipes)
        return recipes.get(str(self.data or "digits"), recipes["digits"])

    def _net(self, recipe: Recipe, size: Sequence[int], presets: Mapping[str, dict[str, Any]]) -> str:
        return self.net or autoencoder_preset(size)
