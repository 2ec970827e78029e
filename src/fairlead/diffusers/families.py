"""Families of pipelines that ``fl.load`` knows beforehand: which network they have, and what their prompts become.

Others are learned, see ``guiding/learned_model.py``. Of these, prompts are encoded without a call of the pipeline,
latents are encoded and decoded in batches, and a gradient gets through the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.diffusers.network_calls import MASK, POOLED, POOLED_XL, STATES

Texts = Mapping[str, tuple[int, int | None]]
"""Argument of the network -> where ``encode_prompt`` returns it for the prompt and for the negative prompt (None: it
encodes one at a time)."""


@dataclass(frozen=True)
class Wiring:
    """How one family of pipelines calls its network.

    Attributes:
        network: name of the component that denoises.
        texts: arguments made from the prompt; empty where there are none.
        labels: whether ``class_labels`` is an argument.
        packed: whether latents are patches in a row, [n, h w / 4, 4 c] (Flux).
    """

    network: str
    texts: Texts | None = None
    labels: bool = False
    packed: bool = False


_SD = Wiring("unet", {STATES: (0, 1)})
_XL = Wiring("unet", {STATES: (0, 1), POOLED_XL: (2, 3)})
_SD3 = Wiring("transformer", {STATES: (0, 1), POOLED: (2, 3)})
_MASKED = Wiring("transformer", {STATES: (0, 2), MASK: (1, 3)})
_FLUX = Wiring("transformer", {STATES: (0, None), POOLED: (1, None)}, packed=True)
_EDITS = ("", "Img2Img", "Inpaint")

FAMILIES: dict[str, Wiring] = {
    **{f"StableDiffusion{control}{edit}Pipeline": _SD for control in ("", "ControlNet") for edit in _EDITS},
    **{f"StableDiffusionXL{control}{edit}Pipeline": _XL for control in ("", "ControlNet") for edit in _EDITS},
    **{f"StableDiffusion3{edit}Pipeline": _SD3 for edit in ("ControlNet", *_EDITS)},
    "PixArtAlphaPipeline": _MASKED,
    "PixArtSigmaPipeline": _MASKED,
    "SanaPipeline": _MASKED,
    **{f"Flux{edit}Pipeline": _FLUX for edit in _EDITS},
    "DiTPipeline": Wiring("transformer", labels=True),
    "DDPMPipeline": Wiring("unet"),
    "DDIMPipeline": Wiring("unet"),
    "LatentConsistencyModelPipeline": _SD,
    "LatentConsistencyModelImg2ImgPipeline": _SD,
}


def known_wiring(kind: Any) -> Wiring | None:
    """The wiring of pipelines of class ``kind``; None if it is in no table, or has a ``__call__`` of its own."""
    for base in kind.__mro__:
        if base.__name__ in FAMILIES and base.__module__.startswith("diffusers."):
            return FAMILIES[base.__name__] if kind.__call__ is base.__call__ else None
    return None
