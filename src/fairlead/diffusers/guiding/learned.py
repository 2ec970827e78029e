"""A guidance attached to a pipeline of any class: how it calls its network is learned at its call in the block."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.denoiser import Cost, counting
from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.attached_resources import attached_resources, check_no_classifier
from fairlead.diffusers.guiding.branch_calls import Weak, unasked
from fairlead.diffusers.guiding.call_arguments import leaves, same
from fairlead.diffusers.guiding.call_conditions import samples_condition
from fairlead.diffusers.guiding.encoder_memory import EncoderMemory, encoders_of
from fairlead.diffusers.guiding.learned_run import LearnedRun, levels_of
from fairlead.diffusers.guiding.pattern import Pattern, learned
from fairlead.diffusers.guiding.recorder import Path, Recorder
from fairlead.diffusers.guiding.rehearsal import GUIDER, OWN_PERTURBATION, Rehearsals, guider_at
from fairlead.diffusers.guiding.request import OWN_GUIDANCE, check_renoising_scheduler, empty_prompt
from fairlead.diffusers.guiding.stand_in import behind, check_in_place, own_kind, running, standing_in
from fairlead.diffusers.perturbation import check_reachable, check_without_dropout, layers_of, plain, text_layers
from fairlead.diffusers.pipelines import IMAGE_AUTOENCODERS, decoded, has_text_encoder
from fairlead.guide.batching import Batching
from fairlead.guide.methods.compose import Compose
from fairlead.guide.moment import Context
from fairlead.guide.observation import Observation
from fairlead.guide.pairs import Pair
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model, encode_nothing

_DENOISERS = re.compile(r"(unconditional_)?(transformer|unet|prior|decoder|dit|denoiser|network|model)(_\d+)?")


def denoisers_of(pipe: Any) -> dict[str, Any]:
    """Name -> network, of the components of a pipeline that may denoise."""
    parts = {name: behind(part) for name, part in pipe.components.items() if _DENOISERS.fullmatch(name)}
    return {name: part for name, part in parts.items() if isinstance(plain(part), nn.Module)}


class LearnedAttachment:
    """A guidance on a pipeline whose class is in no table; see :class:`~fairlead.diffusers.guiding.attach.Attachment`
    for its attributes."""

    def __init__(
        self,
        pipe: Any,
        guidance: Guidance,
        negative: str | None,
        resources: Mapping[str, Any],
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self._kind = own_kind(pipe)
        self._pipe, self.guidance, self._negative = pipe, guidance, negative
        self._batching, self._observe, self.cost = batching, observe, Cost()
        self._networks = denoisers_of(pipe)
        if not self._networks or not hasattr(pipe, "scheduler"):
            what = "a network" if not self._networks else "a scheduler"
            raise UsageError(
                f"{self._kind.__name__} has no component that is {what} of a denoising loop, so there is nothing to "
                "guide; attach to the pipeline inside it that denoises"
            )
        self._network = next(iter(self._networks.values()))
        self.layers = {**layers_of(self._network), **text_layers(self._network)}
        self._answers: dict[Hashable, Any] = {}
        self._signature = inspect.signature(self._kind.__call__)
        check_no_classifier(guidance)
        self._resources = attached_resources(pipe, next(iter(self._networks)), guidance, resources)
        self._check()

    def _model(self) -> Model:
        schedule, objective, unknown = levels_of(self._pipe)
        return Model(
            unasked,
            schedule,
            (),
            encode_nothing,
            functools.partial(_decoded, self._pipe, self._kind.__name__),
            embed=lambda condition: condition,
            objective=objective,
            data_range=None if _decoders(self._pipe) else (-1.0, 1.0),
            layers=self.layers,
            reachable=functools.partial(check_reachable, self._network),
            metadata={"levels": not unknown, "unknown": unknown},
        )

    def _check(self) -> None:
        weak = {name: thing.network for name, thing in self._resources.items() if isinstance(thing, Weak)}
        for name, network in {**{f"pipe.{name}": part for name, part in self._networks.items()}, **weak}.items():
            check_uncached(network, name)
            check_without_dropout(network, name)
        one = (torch.zeros(1), torch.ones(1) > 0)
        self.guidance.check(
            Context(model=self._model(), condition=samples_condition(1, prompt=one), resources=self._resources)
        )
        wrong = [s for term in self.guidance.terms for s in term.specs() if not isinstance(s, str)]
        if wrong:
            raise UsageError(
                f"{self.guidance} names the condition {wrong[0]!r}, this pipeline's conditions are prompts"
            )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The pipeline guided, and after the last block on it as it was."""
        with standing_in(self._pipe, (*self._networks, *encoders_of(self._pipe)), self):
            yield

    def call(self, original: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's call, guided."""
        try:
            bound = self._signature.bind(pipe, *args, **kwargs)
        except TypeError:
            return original(pipe, *args, **kwargs)  # to complain in its own words
        given = bound.arguments
        for name, instead in OWN_GUIDANCE.items():
            if given.get(name):
                raise UsageError(
                    f"{name} has no effect while a guidance is attached; write it as part of it: {instead}"
                )
        check_renoising_scheduler(self.guidance, pipe.scheduler, given)
        for name, network in self._networks.items():
            check_in_place(pipe, name, network)
            check_uncached(network, f"pipe.{name}")
        forced, negative = self._forced(given)
        memory = EncoderMemory(pipe)
        rehearsals = Rehearsals(pipe, original, memory, self._answers)
        pattern = learned(rehearsals, bound, forced)
        if pattern.null is None and negative:
            prompt = given.get("negative_prompt") if self._negative is None else self._negative
            if prompt is None:
                raise UsageError(
                    f"{negative} was given, and {self._kind.__name__} makes no null prediction of it; give the words: "
                    "attach(..., negative='blurry')"
                )
            pattern = replace(pattern, null=self._named(rehearsals, bound, forced, pattern, prompt)[1])
        specs = dict.fromkeys(str(s) for term in self.guidance.terms for s in term.specs())
        controls = [
            name for name, part in pipe.components.items() if part is not None and name.startswith("controlnet")
        ]
        if specs and controls:
            raise UsageError(
                f"{self.guidance} names a prompt, which the {controls[0]} of {self._kind.__name__} would have to see "
                "too; give it as the call's prompt or negative_prompt"
            )
        named = {spec: self._named(rehearsals, bound, forced, pattern, spec) for spec in specs}
        model, empty = self._model(), empty_prompt(self.guidance, given.get("prompt"))
        conditional = pattern.null is not None or bool(named) or "prompt" in self._signature.parameters
        run = LearnedRun(
            pipe, pattern, named, self.guidance, model, self._resources, given.get("generator"),
            conditional, empty, negative, self._batching, self._observe,
        )  # fmt: skip
        if not run.known:
            converted = f"{self._kind.__name__} changes its network's answers before its scheduler sees them"
            check_affine(self.guidance, model.metadata["unknown"] or converted)
        settings: dict[str, Any] = dict(pattern.settings)
        guider = settings.pop(GUIDER, None)
        changed = type(given)(given) | forced | settings
        ordered = {name: changed[name] for name in self._signature.parameters if name in changed}
        arguments = inspect.BoundArguments(self._signature, ordered)
        with counting() as cost:
            try:
                with running(pipe, memory.around(run)), guider_at(pipe, guider):
                    return original(*arguments.args, **arguments.kwargs)
            finally:
                self._restore(pipe, bound, settings)
                self.cost.rows, self.cost.calls = self.cost.rows + cost.rows, self.cost.calls + cost.calls

    def _restore(self, pipe: Any, bound: inspect.BoundArguments, settings: Mapping[str, Any]) -> None:
        """What a pipeline keeps of its call's scales is what the call was given."""
        for name, value in settings.items():
            kept = f"_{name}"
            if kept in vars(pipe) and vars(pipe)[kept] == value:
                setattr(pipe, kept, bound.arguments.get(name, self._signature.parameters[name].default))

    def _forced(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Changes to the call that put ``negative`` into it, and how a negative was given, in words."""
        own = next((n for n in ("negative_prompt", "negative_prompt_embeds") if given.get(n) is not None), None)
        perturbs = {n: 0.0 for n in OWN_PERTURBATION if n in self._signature.parameters}
        if self._negative is None:
            empty = own is None or (own == "negative_prompt" and not any(_listed(given[own])))
            return perturbs, "" if empty else str(own)
        if own is not None:
            raise UsageError(f"negative={self._negative!r} was given to attach, and {own} to the call; keep one")
        if "negative_prompt" not in self._signature.parameters:
            return perturbs, f"negative={self._negative!r}"
        prompt = given.get("prompt")
        value: Any = [self._negative] * len(prompt) if isinstance(prompt, list) else self._negative
        return {**perturbs, "negative_prompt": value}, f"negative={self._negative!r}"

    def _named(
        self,
        rehearsals: Rehearsals,
        bound: inspect.BoundArguments,
        forced: Mapping[str, Any],
        pattern: Pattern,
        prompt: str | list[str],
    ) -> tuple[Mapping[str, Any], Mapping[Path, Any]]:
        """The arguments of a call with another prompt, and those of them that differ from those of the call."""
        if "prompt" not in self._signature.parameters:
            raise UsageError(f"{self._kind.__name__} takes no prompt, so {prompt!r} cannot be encoded; leave it out")
        if not has_text_encoder(self._pipe):
            raise UsageError(
                f"this pipeline has no text encoder, so {prompt!r} cannot be encoded; pass negative_prompt_embeds to "
                "the call, or load the text encoder"
            )
        own = bound.arguments.get("prompt")
        changes: dict[str, Any] = {
            n: None for n in bound.arguments if re.fullmatch(r"(pooled_)?prompt_(embeds|\d).*", n)
        }
        changes["prompt"] = [prompt] * len(own) if isinstance(own, list) and isinstance(prompt, str) else prompt
        recorder = Recorder(pattern.answer, pattern.n)
        found = rehearsals.run(bound, recorder, **{**forced, **pattern.off, **changes})
        mine, theirs = (leaves(calls[0].arguments, pattern.listed) for calls in (pattern.calls, found.calls))
        unlike = {p: v for p, v in theirs.items() if p in pattern.own or not same(v, mine.get(p))}
        return found.calls[0].arguments, unlike


def check_affine(guidance: Guidance, unknown: str) -> None:
    """Refuse a guidance that depends on the noise level or on x0, where these are not known, for the reason given."""
    if guidance.finishers or not all(_is_affine(term) for term in guidance.terms):
        raise UsageError(f"{guidance} depends on noise levels that are not known: {unknown}; cfg, compose and slg work")


def _is_affine(term: Term) -> bool:
    if isinstance(term, Compose):
        return True
    plain_scale = isinstance(getattr(term, "scale", None), int | float | tuple)
    return isinstance(term, Pair) and term.is_difference() and plain_scale


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _decoders(pipe: Any) -> list[Any]:
    return [
        part for part in pipe.components.values() if hasattr(part, "decode") and isinstance(behind(part), nn.Module)
    ]


def _decoded(pipe: Any, kind: str, x0: Tensor) -> Tensor:
    """Images of samples [n, c, h, w], where the pipeline has an autoencoder of images, or none and makes pixels."""
    vae = getattr(pipe, "vae", None)
    if x0.ndim == 4 and (not _decoders(pipe) or type(vae).__name__ in IMAGE_AUTOENCODERS):
        return decoded(pipe, x0)
    raise UsageError(
        f"how {kind} decodes its latents is not known, so scores of images cannot guide it; use other terms"
    )
