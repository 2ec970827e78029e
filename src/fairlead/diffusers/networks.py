"""Networks of diffusers, by class name and configuration, called as ours are.

Their nulls are those that pipelines use, so that a pipeline made of one guides as it should: the class beyond the last,
and what the text encoder makes of the empty string.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.arguments import as_mapping, is_count, plain, shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule, RectifiedFlow
from fairlead.core.typed import Count, Size
from fairlead.diffusers.negative_text import with_negative_text
from fairlead.diffusers.network_calls import (
    MASK,
    POOLED,
    STATES,
    Called,
    called,
    latent_channels,
    nested,
    null_label,
    settings_of,
    tokens_of,
)
from fairlead.diffusers.perturbation import layers_of, perturbing, text_layers
from fairlead.diffusers.pretrained import library, setting
from fairlead.nets.build import UNFIT
from fairlead.nets.embeddings import read
from fairlead.nets.packed_text import unpack

_WHAT = "networks of diffusers"


class EncodedShape(TypedDict):
    """Of the text that a network is conditioned on: ``length`` tokens of ``width``, and ``zeros`` tokens of zeros
    behind them."""

    width: Size
    length: Size
    zeros: NotRequired[Count]


class EncodedText(nn.Module):
    """The condition "text" as an encoder outside made it, a value of :mod:`fairlead.nets.packed_text`; where it is not
    kept, what that encoder makes of the empty string, which is kept in the checkpoint. ``zeros`` tokens of zeros follow
    its own."""

    empty: Tensor
    keeps_empty = True

    def __init__(self, width: int, length: int, zeros: int = 0) -> None:
        super().__init__()
        self.zeros = zeros
        self.register_buffer("empty", torch.zeros(1 + length, width + 1))

    def set_empty(self, value: Tensor) -> None:
        """Keep what the encoder makes of the empty string, [1 + length, width + 1]."""
        self._check(value[None])
        self.empty.copy_(value)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """(states [n, length + zeros, width], real bool [n, length + zeros], pooled [n, width])."""
        value, keep = read(condition, "text")
        self._check(value)
        states, real, pooled = unpack(torch.where(keep[:, None, None], value.to(self.empty), self.empty))
        return F.pad(states, (0, 0, 0, self.zeros)), F.pad(real, (0, self.zeros), value=True), pooled

    def _check(self, value: Tensor) -> None:
        if value.shape[1:] != self.empty.shape:
            length, width = self.empty.shape
            raise UsageError(
                f"text: the network takes {length - 1} tokens of width {width - 1}, encoded, got {value.dtype} "
                f"{list(value.shape)}; encode with the text encoder it was trained with"
            )


class DiffusersNet(nn.Module):
    """``(x [n, c, s, s], time [n], condition) -> [n, c, s, s]``, through a network of diffusers.

    Its time is the scheduler's timestep: the index of the table, or 1000 sigma of a flow.

    Args:
        channels_in, size, classes: as for the U-Net.
        network: name of its class.
        config: its settings, from :func:`diffusers_config`.
        text: "width" and "length" of the encoder's states, and "zeros", how many tokens of zeros follow them; None: it
            is not conditioned on text.
    """

    def __init__(
        self,
        channels_in: Size,
        size: Size,
        classes: Count,
        network: str,
        config: Mapping[str, Any],
        text: EncodedShape | None = None,
    ) -> None:
        super().__init__()
        self.called = called(network)
        self.network: nn.Module = _class_of(network)(**config)
        for module in self.network.modules():
            if hasattr(module, "dropout_prob"):  # labels are dropped by the condition, and never twice
                module.dropout_prob = 0.0
        self.classes = classes
        self.text = EncodedText(text["width"], text["length"], text.get("zeros", 0)) if text else None
        if latent_channels(self.network) != channels_in or setting(self.network, "sample_size") != size:
            raise UsageError(f"{network}: its settings are not for {channels_in}x{size}x{size}; see diffusers_config")

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Names of the layers that guidance may perturb, by kind."""
        return {**layers_of(self.network), **text_layers(self.network)}

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        size = x.shape[-2], x.shape[-1]
        arguments, text = with_negative_text(self.network, condition, partial(self._arguments, x))
        with perturbing(self.network, condition.perturb, tokens_of(self.network, size), text):
            output: Tensor = self.network(x, timestep=time, return_dict=False, **arguments)[0]
        return output

    def _arguments(self, x: Tensor, condition: Condition) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        if self.text is not None:
            states, real, pooled = self.text(condition)
            flat = dict(zip((STATES, MASK, POOLED), (states, real.long(), pooled), strict=True))
            flat = {name: flat[name] for name in self.called.texts()}
        if self.classes:
            label, keep = read(condition, "label")
            flat["class_labels"] = torch.where(keep, label, null_label(self.network))
        elif self.called.needs_label:
            flat["class_labels"] = torch.full((len(x),), null_label(self.network))
        if "use_additional_conditions" in self.network.config:  # type: ignore[operator]
            flat |= dict.fromkeys(("added_cond_kwargs.resolution", "added_cond_kwargs.aspect_ratio"))
        return nested(flat, x)

    @staticmethod
    def check_sizes(config: Mapping[str, Any], values: int) -> None:
        """Refuse sizes whose tables of positions, which numpy makes, would take more memory than ``values`` numbers."""
        settings = config.get("config")
        if isinstance(settings, Mapping):
            for name, most in (("pos_embed_max_size", values), ("sample_size", 2**22)):
                edge = settings.get(name)
                if edge is not None and not (isinstance(edge, int) and 0 < edge**2 <= most):
                    raise UsageError(f"{UNFIT} ({name} is {edge!r:.40})")

    @staticmethod
    def check_training(net: Mapping[str, Any], schedule: NoiseSchedule, text: Mapping[str, Any]) -> None:
        """Refuse what the pipeline of such a network could not do after it.

        Args:
            net: from :func:`diffusers_config`, or of adapters on the network of a pipeline.
            text: configuration of the text encoder, {} if there is none.

        Raises:
            UsageError: for a schedule that diffusers' schedulers have no table of, and for padding that the network
                would see in the pipeline but not here, or the other way.
        """
        network = net.get("network", "UNet2DConditionModel")  # that of adapters
        if schedule.table_size is None and schedule.config() != RectifiedFlow().config():
            raise UsageError(
                f"schedule {schedule.config()['name']!r} is none of diffusers' schedulers, as {network} needs; "
                "take vp_scaled_linear, vp_linear, or flow with shift 1"
            )
        masked = called(network).masked
        if text and text.get("masked", True) != masked:
            raise UsageError(f"{network} reads text {'' if masked else 'un'}masked; make the encoder masked={masked}")


def diffusers_config(
    network: str,
    config: Mapping[str, Any],
    channels_in: int,
    size: int,
    classes: int,
    text: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON-ready configuration of a network of diffusers for x [channels_in, size, size].

    Args:
        network: name of its class, one of ``diffusers.network_calls.CALLED``.
        config: its settings, as in a ``config.json`` of diffusers. What follows from the data may be left out: sizes
            and channels, the number of class embeddings, widths of the text.
        classes: number of labels it is conditioned on; 0: none.
        text: what ``asked`` returned of the text; None: it is conditioned on none.

    Raises:
        UsageError: for an unknown class or setting, one that contradicts the data, a condition that the network does
            not read, and ways of conditioning that are not trained here.
    """
    channels_in, size, classes = plain(channels_in), plain(size), plain(classes)
    for what, value, least in (("channels_in", channels_in, 1), ("size", size, 1), ("classes", classes, 0)):
        if not is_count(value, least):
            raise UsageError(f"{network}: expected {what} to be an integer of at least {least}, got {shown(value)}")
    text = as_mapping("text", text)
    names, known = called(network), dict(inspect.signature(_class_of(network).__init__).parameters)
    settings = settings_of(network, config, {name: p for name, p in known.items() if name != "self"})
    _check_conditions(network, names, classes, text)
    wanted: dict[str, Any] = {"sample_size": size, "in_channels": channels_in, "out_channels": channels_in}
    if text:
        wanted |= {name: text["width"] for name in (names.states, names.pooled) if name}
    if classes and not names.labels_beyond:
        wanted[names.labels] = classes + 1
    for name, value in wanted.items():
        if name in settings and settings[name] != value:
            raise UsageError(
                f"{network}: setting {name} is {settings[name]!r}, the data and its conditions ask for {value!r}; "
                "leave it out"
            )
    settings |= wanted
    most = settings.get("pos_embed_max_size")
    if most and most * (patch := settings.get("patch_size", known["patch_size"].default)) < size:
        raise UsageError(
            f"{network}: pos_embed_max_size {most}, in patches of {patch}, is too few for {size}x{size}; give "
            f"{-(-size // patch)} or more"
        )
    embeddings = settings.get(names.labels, known[names.labels].default) if names.labels_beyond else classes
    if embeddings < classes:
        raise UsageError(f"{network}: {names.labels} is {embeddings}, the data has {classes} classes; leave it out")
    for name in ("time_cond_proj_dim", "addition_embed_type", "encoder_hid_dim_type", "use_additional_conditions"):
        if settings.get(name):
            raise UsageError(
                f"{network}: {name} {settings[name]!r} adds an input that no training here has; leave it out"
            )
    if network == "PixArtTransformer2DModel":
        settings["use_additional_conditions"] = False
    base: dict[str, Any] = {"channels_in": channels_in, "size": size, "classes": classes}
    more = {"text": {**text, "null": "empty"}} if text else {}
    return {"kind": "diffusers", **base, "network": network, "config": settings, **more}


def _check_conditions(network: str, names: Called, classes: int, text: Mapping[str, Any] | None) -> None:
    if classes and not names.labels:
        raise UsageError(f"{network} has no class embedding; leave label out of the conditions")
    if names.states and not text:
        raise UsageError(f"{network} reads text; add text to the conditions")
    if text and not names.states:
        raise UsageError(f"{network} reads no text; leave text out of the conditions, or take UNet2DConditionModel")
    if text and text.get("zeros") and network != "SD3Transformer2DModel":
        raise UsageError(f"{network} is no network of Stable Diffusion 3; give clip:SOURCE or t5:SOURCE")
    if text and text.get("vocabulary"):
        raise UsageError(
            f"{network} reads the states of a text encoder, and 'words' trains inside a network of ours; give "
            "clip:SOURCE or t5:SOURCE"
        )


def _class_of(network: str) -> Any:
    called(network)
    return getattr(library(_WHAT, "diffusers"), network)
