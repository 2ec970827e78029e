"""What pag, seg and slg share: a pair of the network and the same network made worse in some layers; and which layers
a perturbation stands for.

    D = D_c + scale (D_c - D_c perturbed)

``layers`` names them, from ``model.layers``; without it they are the middle: the "middle" layers of a U-Net, else the
central block. A perturbation is a mask of rows, so the perturbed branch rides in the network call of the others, and
rows that are not in the mask keep their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError, unknown
from fairlead.guide.branch import COND, Branch
from fairlead.guide.moment import Context, Moment
from fairlead.guide.pairs import Pair
from fairlead.models.model import Model

LayerKind = Literal["attention", "block", "text"]
"""Of ``Model.layers``: self-attention, whole blocks, attention that reads the text."""


@dataclass(frozen=True)
class Perturbed(Pair):
    """A method that moves away from the perturbed network; 0 is off.

    Attributes:
        layers: names of layers, one or several; None is the middle.
    """

    layers: str | Sequence[str] | None = field(default=None, kw_only=True)
    off: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", as_layers(self.name, self.layers))

    def perturbation(self) -> Perturbation:
        """Its ``layers`` are empty for the middle."""
        raise NotImplementedError

    def pair(self, at: Moment) -> tuple[Branch, Branch]:
        return COND, Branch(perturb=self.perturbation())

    def check(self, on: Context) -> None:
        located(self.perturbation(), on.model, self.name)


def as_layers(owner: str, layers: object) -> tuple[str, ...] | None:
    """Check names of layers; one name becomes a tuple of one."""
    names = (layers,) if isinstance(layers, str) else layers
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n for n in names):
        raise UsageError(f"{owner}: expected layers to be names of layers, or nothing for the middle, got {layers!r}")
    return tuple(names)


def located(perturbation: Perturbation, model: Model, owner: str = "guidance") -> Perturbation:
    """The perturbation with the layers of this model that it stands for; raises UsageError when there are none."""
    kinds: dict[str, LayerKind] = {"skip": "block", "negative_text": "text"}
    kind = kinds.get(perturbation.kind, "attention")
    return replace(perturbation, layers=chosen_layers(owner, perturbation.layers or None, kind, model))


def chosen_layers(owner: str, layers: tuple[str, ...] | None, kind: LayerKind, model: Model) -> tuple[str, ...]:
    """``layers`` once they are known to the model; for None the middle ones, or all that read the text.

    Raises:
        UsageError: if the model has no layers of this kind, or not those, or their attention cannot be reached.
    """
    known = model.layers.get(kind, ())
    if not known and kind == "text":
        raise UsageError(
            f"{owner}: this model reads no text in its attention, or in a way that is not known here; it works on "
            "networks of fairlead that read text, and in diffusers on U-Nets, PixArt, Sana, Wan, SD3, Flux, Chroma and "
            "Qwen-Image; use cfg"
        )
    if not known:
        other = {"attention": ("block", "slg or s2, which skip its blocks"), "block": ("attention", "pag or seg")}
        beside, instead = other[kind]
        raise UsageError(
            f"{owner}: this model names no {kind} layers that could be perturbed (closed forms, linear attention and "
            f"the lessons' networks have none); use {instead if model.layers.get(beside) else 'a unet or a dit'}"
        )
    for layer in layers or ():
        if layer not in known:
            raise unknown(f"{kind} layer", layer, known)
    chosen = layers or (tuple(known) if kind == "text" else middle(known))
    if kind != "block" and model.reachable is not None:
        for layer in chosen:
            model.reachable(layer)
    return chosen


def middle(names: Sequence[str]) -> tuple[str, ...]:
    """The layers named "middle..." of a U-Net ("mid_block..." in diffusers), else the central one of a stack."""
    inside = ("middle", "mid_block")
    return tuple(name for name in names if name.split(".")[0] in inside) or (names[len(names) // 2],)
