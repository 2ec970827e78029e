"""The guiders of Modular Diffusers, read as our expressions.

What is read gives the same prediction, step by step. A guider combines raw outputs of the network; where that is not
the same in every space (norms, projections), it is read for networks whose output is in the space of our method, and
refused for others, as is a configuration under which the library does something else than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fairlead.core.arguments import chosen
from fairlead.core.errors import UsageError, unknown
from fairlead.core.prediction import Objective
from fairlead.guide.methods.apg import APG
from fairlead.guide.methods.bands import Bands
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.methods.mambo import Mambo
from fairlead.guide.methods.pag import PAG
from fairlead.guide.methods.rescale import Rescale
from fairlead.guide.methods.seg import SEG
from fairlead.guide.methods.slg import SLG
from fairlead.guide.methods.tcfg import TCFG
from fairlead.guide.methods.zero_star import ZeroStar
from fairlead.guide.terms import Guidance, Term, as_guidance


@dataclass(frozen=True)
class Reading:
    """What a guider is read beside.

    Attributes:
        objective: what the network returns.
        sigmas: the level sigma / alpha at each step of the run; None: not known.
        layers: names of the network's layers by kind, see ``Model.layers``.
    """

    objective: Objective
    sigmas: tuple[float, ...] | None
    layers: Mapping[str, Sequence[str]]

    def steps(self, guider: Any, start: float, stop: float) -> range:
        """The steps from the share ``start`` of them to ``stop``."""
        if self.sigmas is None:
            raise UsageError(
                f"{type(guider).__name__}: start {start:g} and stop {stop:g} are shares of a run's steps; give its "
                "levels, sigmas=[...], one per step"
            )
        count = len(self.sigmas)
        return range(int(start * count), int(stop * count))

    def during(self, term: Term, steps: range) -> Term | None:
        """The term in these steps alone; None if there are none."""
        assert self.sigmas is not None
        if not steps:
            return None
        return term.during(sigma=(self._above(steps.stop), self._above(steps.start)))

    def _above(self, step: int) -> float:
        assert self.sigmas is not None
        return self.sigmas[step] * (1 + 1e-6) if step < len(self.sigmas) else 0.0

    def needs(self, guider: Any, objective: Objective, what: str) -> None:
        if self.objective != objective:
            raise UsageError(
                f"{type(guider).__name__} {what} the network's own output, here {self.objective}; ours acts on "
                f"{objective}, as the paper does, so its numbers mean something else: choose new ones"
            )

    def named(self, guider: Any, kind: str, configs: Sequence[Any]) -> tuple[str, ...]:
        """The layers of a kind in the blocks that ``configs`` name."""
        found: list[str] = []
        for config in configs:
            stack = "transformer_blocks" if config.fqn == "auto" else config.fqn
            indices = [config.indices] if isinstance(config.indices, int) else config.indices
            for block in (f"{stack}.{i}" for i in indices):
                inside = [name for name in self.layers.get(kind, ()) if name == block or name.startswith(f"{block}.")]
                if not inside:
                    raise UsageError(
                        f"{type(guider).__name__}: block {block!r} has no {kind} layer among those given "
                        f"({', '.join(self.layers.get(kind, ())) or 'none'}); give layers=model.layers"
                    )
                found += inside
        return tuple(found)


def from_guider(
    guider: Any,
    *,
    objective: Objective = "eps",
    sigmas: Sequence[float] | None = None,
    layers: Mapping[str, Sequence[str]] | None = None,
) -> Guidance:
    """Convert a guider of diffusers to the guidance that it is configured for; ``str`` of the result is the expression.

    Args:
        guider: e.g. ``ClassifierFreeGuidance(guidance_scale=5)``.
        objective: what the network returns: "eps", "v", "x0" or "flow".
        sigmas: sigma / alpha at each step of the run, for guiders that start or stop within it.
        layers: of the network, ``model.layers``, for guiders that perturb some.

    Raises:
        UsageError: for a guider that is not known here, and a configuration that no expression gives.
    """
    chosen("objective", objective, get_args(Objective))
    kind = next((base.__name__ for base in type(guider).__mro__ if base.__name__ in _READERS), None)
    if type(guider).__name__ in _UNREAD:
        raise UsageError(f"{type(guider).__name__}: {_UNREAD[type(guider).__name__]}")
    if kind != type(guider).__name__ or kind is None:
        raise unknown("guider", type(guider).__name__, _READERS)
    if not guider._enabled:
        return Guidance()
    reading = Reading(objective, None if sigmas is None else tuple(map(float, sigmas)), layers or {})
    guidance = _READERS[kind](guider, reading)
    rescale = guider.guidance_rescale
    if isinstance(rescale, list | tuple):  # one for each band; the first is used of the whole
        rescale = rescale[0] if guider._is_fdg_enabled() else 0.0
    return guidance | Rescale(rescale) if rescale else guidance


def _scale(guider: Any) -> float:
    """In our convention, 1 is off."""
    return float(guider.guidance_scale) + bool(guider.use_original_formulation)


def _within(guider: Any, term: Term, reading: Reading) -> Guidance:
    """The term in the steps of the guider."""
    if guider._start == 0 and guider._stop == 1:
        return as_guidance(term)
    return as_guidance(reading.during(term, reading.steps(guider, guider._start, guider._stop)))


def _cfg(guider: Any, reading: Reading) -> Guidance:
    return _within(guider, CFG(_scale(guider)), reading)


def _apg(guider: Any, reading: Reading) -> Guidance:
    reading.needs(guider, "x0", "projects and limits")
    if guider.adaptive_projected_guidance_norm_dim is not None:
        raise UsageError(f"{type(guider).__name__}: ours takes norms over a whole sample; leave norm_dim out")
    # theirs adds scale times the changed direction to the null prediction, the paper (scale - 1) times to the other
    changed = APG(
        CFG(float(guider.guidance_scale) + 1),
        eta=float(guider.eta),
        norm=float(guider.adaptive_projected_guidance_rescale) or None,
        momentum=float(guider.adaptive_projected_guidance_momentum or 0.0),
    )
    moved = _within(guider, changed, reading)
    return moved if guider.use_original_formulation else _within(guider, CFG(0.0), reading) + moved


def _zero_star(guider: Any, reading: Reading) -> Guidance:
    reading.needs(guider, "flow", "fits and sets to zero")
    count = int(guider.zero_init_steps)
    if count and (guider._start, guider._stop) != (0.0, 1.0):
        raise UsageError(
            f"{type(guider).__name__}: its {count} steps of zero are outside start and stop; leave one of them out"
        )
    share = count / len(reading.steps(guider, 0.0, 1.0)) if count else 0.0
    return _within(guider, ZeroStar(CFG(_scale(guider)), zero=share), reading)


def _tcfg(guider: Any, reading: Reading) -> Guidance:
    reading.needs(guider, "eps", "projects")
    return _within(guider, TCFG(CFG(_scale(guider))), reading)


def _mambo(guider: Any, reading: Reading) -> Guidance:
    reading.needs(guider, "flow", "takes norms of")
    return _within(guider, Mambo(CFG(_scale(guider)), float(guider.alpha)), reading)


def _bands(guider: Any, reading: Reading) -> Guidance:
    kind = type(guider).__name__
    if any(weight != 1 for weight in guider.parallel_weights) or guider.guidance_rescale_space != "data":
        raise UsageError(f"{kind}: parallel_weights and rescaling by frequency have no expression; leave them out")
    if len({*zip(guider.guidance_start, guider.guidance_stop, strict=True)}) > 1:
        raise UsageError(f"{kind}: ours turns all bands on at once; give one start and one stop")
    weights = [float(scale) + bool(guider.use_original_formulation) for scale in reversed(guider.guidance_scales)]
    if 1.0 in weights and set(weights) != {1.0}:
        raise UsageError(f"{kind}: for a band that is off, diffusers uses the band before it; give it a scale near 1")
    return _within(guider, Bands(weights), reading)


def _mixed(guider: Any, reading: Reading) -> Guidance:
    """Plain guidance first, then projected."""
    kind = type(guider).__name__
    reading.needs(guider, "x0", "projects and limits")
    if guider.adaptive_projected_guidance_momentum:
        raise UsageError(
            f"{kind}: its momentum is also updated in the plain steps, ours only in its own; set it to 0 or None"
        )
    if guider.use_original_formulation:
        raise UsageError(f"{kind}: use_original_formulation has no expression here; leave it out")
    every, first = reading.steps(guider, guider._start, guider._stop), guider.adaptive_projected_guidance_start_step + 1
    early, late = range(every.start, min(first, every.stop)), range(max(first, every.start), every.stop)
    changed = APG(
        CFG(float(guider.adaptive_projected_guidance_scale) + 1),
        eta=float(guider.eta),
        norm=float(guider.adaptive_projected_guidance_rescale) or None,
    )
    parts = [reading.during(CFG(_scale(guider)), early)]
    parts += [reading.during(CFG(0.0), late), reading.during(changed, late)]
    return Guidance(tuple(part for part in parts if part is not None))


def _skip(guider: Any, reading: Reading) -> Guidance:
    for config in guider.skip_layer_config:
        if not (config.skip_attention and config.skip_ff) or config.skip_attention_scores or config.dropout != 1:
            raise UsageError(f"{type(guider).__name__}: ours skips whole blocks, got {config}")
    names = reading.named(guider, "block", guider.skip_layer_config)
    return _beside(guider, reading, SLG, guider.skip_layer_guidance_scale, names, "skip_layer_guidance", {})


def _perturbed(guider: Any, reading: Reading) -> Guidance:
    for config in guider.skip_layer_config:
        if not config.skip_attention_scores or config.skip_attention or config.skip_ff:
            raise UsageError(f"{type(guider).__name__}: ours only replaces attention by the identity, got {config}")
    names = reading.named(guider, "attention", guider.skip_layer_config)
    return _beside(guider, reading, PAG, guider.skip_layer_guidance_scale, names, "skip_layer_guidance", {})


def _smoothed(guider: Any, reading: Reading) -> Guidance:
    names = reading.named(guider, "attention", guider.seg_guidance_config)
    blur = float(guider.seg_blur_sigma)
    more = {} if blur > float(guider.seg_blur_threshold_inf) else {"blur": blur}
    return _beside(guider, reading, SEG, guider.seg_guidance_scale, names, "seg_guidance", more)


def _beside(
    guider: Any,
    reading: Reading,
    term: Callable[..., Term],
    scale: float,
    names: Sequence[str],
    prefix: str,
    more: Mapping[str, float],
) -> Guidance:
    """Guidance by the null prediction, and by a perturbed one in some steps.

    Raises:
        UsageError: if a step would have the second alone: theirs is then the negative prompt with nothing perturbed.
    """
    cfg = _cfg(guider, reading)
    if not scale:
        return cfg
    perturbed = term(float(scale), layers=list(names), **more)
    start, stop = getattr(guider, f"{prefix}_start"), getattr(guider, f"{prefix}_stop")
    steps = reading.steps(guider, start, stop)[1:]  # theirs leaves the first of them out
    off = _scale(guider) == 1
    if steps and (off or not set(steps) <= set(reading.steps(guider, guider._start, guider._stop))):
        raise UsageError(
            f"{type(guider).__name__}: where guidance_scale is off, its second branch is the negative prompt with "
            f"nothing perturbed, which no expression gives; write {perturbed}"
        )
    inside = reading.during(perturbed, steps)
    return cfg if inside is None else cfg + inside


_UNREAD = {
    "AutoGuidance": "its second branch is the negative prompt with parts of layers dropped at random, which no "
    'expression gives; write auto(2, weak="...") with a weaker model, or slg(2)',
    "LTX2Guidance": "it guides sound and video by four branches of one network, which no expression gives",
}

_READERS: dict[str, Callable[[Any, Reading], Guidance]] = {
    "ClassifierFreeGuidance": _cfg,
    "AdaptiveProjectedGuidance": _apg,
    "ClassifierFreeZeroStarGuidance": _zero_star,
    "TangentialClassifierFreeGuidance": _tcfg,
    "MagnitudeAwareGuidance": _mambo,
    "FrequencyDecoupledGuidance": _bands,
    "AdaptiveProjectedMixGuidance": _mixed,
    "SkipLayerGuidance": _skip,
    "PerturbedAttentionGuidance": _perturbed,
    "SmoothedEnergyGuidance": _smoothed,
}
