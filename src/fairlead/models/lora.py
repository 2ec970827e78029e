"""What the training of adapters takes from the pipeline they are for: its table, prediction, VAE and text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.foreign import place_of
from fairlead.core.pretrained import weight_hash
from fairlead.core.strict_json import read_json
from fairlead.models.levels import objective_of, schedule_of
from fairlead.models.pipelines import diffusers
from fairlead.nets.lora import base_network, pipeline_folder

_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")


@dataclass(frozen=True)
class Base:
    """A pipeline of Stable Diffusion that adapters are trained for.

    Attributes:
        source: folder or hub name.
        folder: where its files are; its VAE is read from there, ``latents``, and its text encoder, ``text``.
        schedule: configuration of the noise schedule that its scheduler has a table of.
        objective: what its network returns.
        base: hash of the network's weights.
    """

    source: str
    folder: Path
    schedule: dict[str, Any]
    objective: str
    base: str

    @classmethod
    def of(cls, source: str) -> Base:
        """
        Raises:
            UsageError: if there is no such pipeline, or it is of another kind.
        """
        folder = pipeline_folder(source)
        if Path(source).expanduser().is_dir():  # the run is to find it from everywhere
            source = str(Path(source).expanduser().resolve())
            folder = Path(source)
        try:
            index = read_json(folder / "model_index.json")
            kind, (_, scheduler) = index["_class_name"], index["scheduler"]
            made = getattr(diffusers(), scheduler).from_pretrained(folder, subfolder="scheduler")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"pipeline {source!r}: its scheduler cannot be read ({error})") from error
        if kind not in _PIPELINES:
            raise UsageError(f"pipeline {source!r} is a {kind}; adapters are trained for {', '.join(_PIPELINES)}")
        objective = objective_of(made)
        return cls(source, folder, schedule_of(made).config(), objective, weight_hash(base_network(source)))

    @property
    def text(self) -> str:
        """Spec of its text encoder."""
        return f"clip:{self.folder}"

    def net(self, channels: int, size: int, rank: int, text: dict[str, Any]) -> dict[str, Any]:
        """Configuration of its network with adapters, for latents [channels, size, size].

        Args:
            text: what ``asked`` returned of the text.
        """
        return {
            "kind": "lora", "channels_in": channels, "size": size, "classes": 0, "pipeline": self.source,
            "rank": rank, "base": self.base, "text": {**text, "null": "empty"},
        }  # fmt: skip


def relocated(about: Mapping[str, Any], near: Path) -> dict[str, Any]:
    """The description of a run with the pipeline of its adapters where that is now, and the VAE and the text encoder of
    that pipeline with it; any other run as it is.

    Args:
        near: the folder of the checkpoint.

    Raises:
        UsageError: if the pipeline was a local folder and is not found.
    """
    found = dict(about)
    if about["net"].get("kind") != "lora":
        return found
    was, train = str(about["net"]["pipeline"]), dict(about["train"])
    now = place_of(was, near)
    parts = {key: dict(train[key]) for key in ("text", "latents") if isinstance(train.get(key), dict)}
    local = Path(was).is_absolute() or any(part.get("source") == was for part in parts.values())
    if local and not Path(now).expanduser().is_dir():
        raise UsageError(
            f"checkpoint {near}: its adapters belong to the pipeline {was!r}, a local folder that is missing; put it "
            "back there, or beside the run"
        )
    found["net"] = {**about["net"], "pipeline": now}
    for part in parts.values():
        if not Path(str(part.get("source"))).expanduser().is_dir():
            part["source"] = str(pipeline_folder(now))
    found["train"] = {**train, **parts}
    return found
