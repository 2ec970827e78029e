"""A guidance attached to a diffusers pipeline for the length of a block.

    with fl.attach(pipe, "cfg(7).during(sigma=(0.3, 6)) + pag(2) | rescale(0.7)", negative="blurry"):
        images = pipe("a lighthouse").images

Inside the block the pipeline finds a stand-in in the place of its network. How it calls it is learned at each call (see
``pattern.py``). Then the pipeline assembles its batch as ever, and every network call of a step is answered with the
guided prediction, so that its own combination is the identity at any ``guidance_scale``. The network itself is not
touched; another pipeline that shares it notices nothing.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fairlead.core.arguments import as_mapping, shown
from fairlead.core.denoiser import Cost, counting
from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.attached_resources import Weak, attached_resources
from fairlead.diffusers.guiding.call_arguments import leaves, same
from fairlead.diffusers.guiding.call_conditions import LabelSpecs, NoSpecs, PromptSpecs, Specs
from fairlead.diffusers.guiding.encoder_memory import EncoderMemory, encoders_of
from fairlead.diffusers.guiding.pattern import Pattern, PromptCall, learned, other_text
from fairlead.diffusers.guiding.pipeline_denoiser import unasked
from fairlead.diffusers.guiding.pipeline_levels import levels_of
from fairlead.diffusers.guiding.pipeline_run import PipelineRun
from fairlead.diffusers.guiding.recorder import CONTROL, Recorder
from fairlead.diffusers.guiding.rehearsal import (
    GUIDER,
    OWN_PERTURBATION,
    Rehearsals,
    denoisers_of,
    guider_at,
    scales_of,
)
from fairlead.diffusers.guiding.request import (
    OWN_GUIDANCE,
    check_affine,
    check_conditions,
    check_renoising_scheduler,
    empty_prompt,
)
from fairlead.diffusers.guiding.stand_in import check_in_place, own_kind, running, standing_in
from fairlead.diffusers.perturbation import check_reachable, check_without_dropout, layers_of, text_layers
from fairlead.diffusers.pipelines import (
    check_pipeline_object,
    decoded_picture,
    decoders_of,
    has_text_encoder,
    label_encoder_of,
)
from fairlead.guide.batching import Batching
from fairlead.guide.checks import check_unweighed
from fairlead.guide.expression import to_guidance
from fairlead.guide.observation import Observation
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model, encode_nothing
from fairlead.models.negatives import expanded


@contextmanager
def attach(
    pipe: Any,
    guidance: Guidance | Term | str,
    *,
    negative: str | None = None,
    resources: Mapping[str, Any] | None = None,
    batching: Batching = "auto",
    observe: Callable[[Observation], object] | None = None,
) -> Iterator[Attachment]:
    """Guide every call of a diffusers pipeline inside a ``with`` block.

    The pipeline's own ``guidance_scale`` changes nothing; embedded guidance (Flux) stays what it is, an argument of the
    network.

    Args:
        pipe: a diffusers pipeline of any class that denoises in a loop with a scheduler, or one of your own.
        guidance: an expression such as "cfg(7) + pag(2)", or an object. Conditions that it names are encoded by the
            pipeline itself; intervals in sigma are sigma / alpha.
        negative: what the null prediction is made of, in place of the empty prompt; the same as ``negative_prompt`` in
            the call. A preset by its domain, such as "@portrait", stands for its prompt.
        resources: what the guidance calls by name; a weak model is a pipeline or network of the same kind.
        batching: how branches share network calls, see ``GuidedDenoiser``.
        observe: called with an ``Observation`` after every evaluation.

    Yields:
        the :class:`Attachment`, which counts what the guidance cost.

    Raises:
        UsageError: for what cannot be done, with the reason, here or at the latest at the first network call.
    """
    if not isinstance(negative, str | None):
        raise UsageError(f"negative: expected a prompt, got {shown(negative)}")
    negative = None if negative is None else expanded(negative)
    resources = as_mapping("resources", resources)
    check_pipeline_object(pipe)
    check_unweighed(to_guidance(guidance))
    attachment = Attachment(pipe, to_guidance(guidance), negative, resources, batching, observe)
    with attachment.in_place():
        yield attachment


class Attachment:
    """A guidance attached to a pipeline, with what it cost; made by :func:`attach`.

    Attributes:
        guidance: what steers.
        cost: rows evaluated and network calls made in the block so far, but those of rehearsals.
        layers: names of the layers of the network that can be perturbed, by kind.
    """

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
        self._signature = inspect.signature(self._kind.__call__)
        self._labels = label_encoder_of(pipe, self._network) if "class_labels" in self._signature.parameters else None
        if self._labels is not None:
            self.guidance = guidance = guidance.by_name(self._labels.named)
        self.layers = {**layers_of(self._network), **text_layers(self._network)}
        self._answers: dict[Hashable, Any] = {}
        self._resources = attached_resources(pipe, next(iter(self._networks)), guidance, resources)
        self._check()

    def _takes(self) -> str:
        """What its network is conditioned on, as the guidance sees it: "label", "prompt", or "" for nothing."""
        if self._labels is not None:
            return "label"
        parameters = self._signature.parameters
        guides = bool(scales_of(parameters)) or self._pipe.components.get("guider") is not None
        return "prompt" if guides or "prompt" in parameters else ""

    def _model(self) -> Model:
        """What is known of the pipeline before a call; its denoiser, shape and encoder are those of each call."""
        schedule, objective, unknown = levels_of(self._pipe)
        return Model(
            unasked,
            schedule,
            (),
            self._labels or encode_nothing,
            functools.partial(decoded_picture, self._pipe, self._kind.__name__),
            embed=(lambda condition: condition) if self._takes() == "prompt" else None,
            classes=() if self._labels is None else self._labels.classes,
            objective=objective,
            data_range=None if decoders_of(self._pipe) else (-1.0, 1.0),
            layers=self.layers,
            reachable=functools.partial(check_reachable, self._network),
            metadata={"unknown": unknown},
        )

    def _check(self) -> None:
        if self._negative is not None and not {"prompt", "negative_prompt"} & {*self._signature.parameters}:
            raise UsageError(
                f"negative={self._negative!r}: {self._kind.__name__} takes no negative prompt; name a condition in the "
                "guidance: cfg(4, negative=...)"
            )
        weak = {name: thing.network for name, thing in self._resources.items() if isinstance(thing, Weak)}
        own = {f"pipe.{name}": part for name, part in self._networks.items()}
        for name, network in {**own, **weak}.items():
            check_uncached(network, name)
            check_without_dropout(network, name)
        check_conditions(self._pipe, self.guidance, self._takes(), self._model(), self._resources, self._negative)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The pipeline guided, and after the last block on it as it was."""
        control = (CONTROL,) if self._pipe.components.get(CONTROL) is not None else ()
        with standing_in(self._pipe, (*self._networks, *control, *encoders_of(self._pipe)), self):
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
        empty = self._takes() == "prompt" and empty_prompt(self.guidance, given.get("prompt"))
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
            null = self._named(rehearsals, bound, forced, pattern, prompt)
            pattern = replace(pattern, null=null.unlike, control_null=null.control)
        specs = dict.fromkeys(str(s) for term in self.guidance.terms for s in term.specs() if self._labels is None)
        named = {spec: self._named(rehearsals, bound, forced, pattern, spec) for spec in specs}
        of: Specs = PromptSpecs(tuple(named)) if self._takes() else NoSpecs()
        if self._labels is not None:
            of = LabelSpecs(self._labels)
        run = PipelineRun(
            pipe, pattern, named, self.guidance, self._model(), self._resources, given.get("generator"), of, empty,
            negative, self._batching, self._observe,
        )  # fmt: skip
        if run.unknown:
            check_affine(self.guidance, run.unknown)
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
    ) -> PromptCall:
        """The network's call with another prompt."""
        if "prompt" not in self._signature.parameters:
            raise UsageError(f"{self._kind.__name__} takes no prompt, so {prompt!r} cannot be encoded; leave it out")
        if not has_text_encoder(self._pipe):
            raise UsageError(
                f"this pipeline has no text encoder, so {prompt!r} cannot be encoded; pass negative_prompt_embeds to "
                "the call, or load the text encoder"
            )
        own = bound.arguments.get("prompt")
        words: Any = expanded(prompt) if isinstance(prompt, str) else [expanded(part) for part in prompt]
        changes: dict[str, Any] = {
            n: None for n in bound.arguments if re.fullmatch(r"(pooled_)?prompt_(embeds|\d).*", n)
        }
        changes["prompt"] = [words] * len(own) if isinstance(own, list) and isinstance(words, str) else words
        recorder = Recorder(pattern.answer, pattern.n, self._answers)
        found = rehearsals.run(bound, recorder, **{**forced, **pattern.off, **changes})
        mine, theirs = (leaves(calls[0].arguments, pattern.listed) for calls in (pattern.calls, found.calls))
        unlike = {p: v for p, v in theirs.items() if p in pattern.own or not same(v, mine.get(p))}
        controls = [calls[0] for calls in (pattern.controls, found.controls) if calls]
        control = other_text(*controls) if len(controls) == 2 else {}
        return PromptCall(found.calls[0].arguments, unlike, control)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
