"""A guidance attached to a diffusers pipeline for the length of a block.

    with fl.attach(pipe, "cfg(7).during(sigma=(0.3, 6)) + pag(2) | rescale(0.7)", negative="blurry"):
        images = pipe("a lighthouse").images

Inside the block the pipeline finds a stand-in in the place of its network. It lets the pipeline assemble its batch as
ever, has the executor evaluate the branches that the guidance needs now, and returns the guided prediction in both
halves, so that the pipeline's own combination is the identity at any ``guidance_scale``. The network itself is not
touched; another pipeline that shares it notices nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fairlead.core.arguments import as_mapping, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, counting
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.attached_resources import attached_resources, check_no_classifier
from fairlead.diffusers.guiding.branch_calls import Weak, unasked
from fairlead.diffusers.guiding.call_conditions import samples_condition
from fairlead.diffusers.guiding.learned import LearnedAttachment
from fairlead.diffusers.guiding.pipeline_run import PipelineRun
from fairlead.diffusers.guiding.request import Requests
from fairlead.diffusers.guiding.stand_in import behind, check_in_place, own_kind, running, standing_in
from fairlead.diffusers.perturbation import check_reachable, check_without_dropout, layers_of, text_layers
from fairlead.diffusers.pipelines import (
    Wiring,
    check_pipeline_object,
    decoded,
    has_text_encoder,
    known_wiring,
    label_encoder,
)
from fairlead.diffusers.schedulers import objective_of, schedule_of
from fairlead.guide.batching import Batching
from fairlead.guide.checks import check_condition, check_unweighed
from fairlead.guide.expression import to_guidance
from fairlead.guide.moment import Context
from fairlead.guide.observation import Observation
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import LabelEncoder, Model, encode_nothing, identity
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
) -> Iterator[Attachment | LearnedAttachment]:
    """Guide every call of a pipeline inside the block.

    The pipeline's own ``guidance_scale`` must be above 1, so that it prepares the null half, and otherwise changes
    nothing; embedded guidance (Flux) stays what it is, an argument of the network.

    Args:
        pipe: a diffusers pipeline of a family that is known here.
        guidance: an expression such as "cfg(7) + pag(2)", or an object. Conditions that it names are encoded by the
            pipeline's own ``encode_prompt``; intervals in sigma are sigma / alpha.
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
    wiring, given = known_wiring(own_kind(pipe)), (to_guidance(guidance), negative, resources, batching, observe)
    attachment = LearnedAttachment(pipe, *given) if wiring is None else Attachment(pipe, wiring, *given)
    with attachment.in_place():
        yield attachment


class Attachment:
    """A guidance on a pipeline; made by :func:`attach`.

    Attributes:
        guidance: what steers.
        cost: rows evaluated and network calls made in the block so far.
        layers: names of the layers of the network that can be perturbed, by kind.
    """

    def __init__(
        self,
        pipe: Any,
        wiring: Wiring,
        guidance: Guidance,
        negative: str | None,
        resources: Mapping[str, Any],
        batching: Batching,
        observe: Callable[[Observation], object] | None,
    ) -> None:
        self._kind = own_kind(pipe)
        self._wiring = wiring
        self._pipe, self.guidance, self._negative = pipe, guidance, negative
        self._batching, self._observe, self.cost = batching, observe, Cost()
        self._network = behind(getattr(pipe, self._wiring.network))
        if self._wiring.labels:
            self.guidance = guidance = guidance.by_name(label_encoder(pipe, self._network).named)
        self.layers = {**layers_of(self._network), **text_layers(self._network)}
        self._resources = attached_resources(pipe, self._wiring.network, guidance, resources)
        self._requests = Requests(pipe, self._kind, self._wiring, self._network, guidance, negative)
        self._signature = inspect.signature(self._kind.__call__)
        self._schedules: tuple[Any, NoiseSchedule] | None = None
        self._check()

    # before the block

    def _model(self) -> Model:
        """What is known of the pipeline before a call; its denoiser, shape and encoder are those of each call."""
        pipe, scheduler = self._pipe, self._pipe.scheduler
        objective = objective_of(scheduler)
        source = getattr(scheduler, "alphas_cumprod", None) if objective != "flow" else scheduler
        if self._schedules is None or self._schedules[0] is not source:
            self._schedules = source, schedule_of(scheduler)
        classes = label_encoder(pipe, self._network).classes if self._wiring.labels else ()
        latent = getattr(pipe, "vae", None) is not None
        return Model(
            unasked,
            self._schedules[1],
            (),
            LabelEncoder(classes) if classes else encode_nothing,
            functools.partial(decoded, pipe) if latent else identity,
            embed=(lambda condition: condition) if self._wiring.texts else None,
            classes=classes,
            objective=objective,
            layers=self.layers,
            data_range=None if latent else (-1.0, 1.0),
            reachable=functools.partial(check_reachable, self._network),
        )

    def _conditions(self) -> tuple[str, ...]:
        """Names of what the network is conditioned on, as the guidance sees it."""
        return ("label",) if self._wiring.labels else ("prompt",) if self._wiring.texts else ()

    def _check(self) -> None:
        pipe, guidance, wiring = self._pipe, self.guidance, self._wiring
        if not wiring.texts and not wiring.labels:
            check_condition(guidance, Condition(1))
            specs = [spec for term in guidance.terms for spec in term.specs()]
            if specs:
                raise UsageError(f"{guidance} names {specs[0]!r}, but this pipeline is unconditional")
        if self._negative is not None and "negative_prompt" not in self._signature.parameters:
            raise UsageError(
                f"negative={self._negative!r}: {self._kind.__name__} takes no negative prompt; name a condition in the "
                "guidance: cfg(4, negative=...)"
            )
        weak = {name: thing.network for name, thing in self._resources.items() if isinstance(thing, Weak)}
        for name, network in {f"pipe.{wiring.network}": self._network, **weak}.items():
            check_uncached(network, name)
            check_without_dropout(network, name)
        names = samples_condition(1, **dict.fromkeys(self._conditions(), (torch.zeros(1), torch.ones(1) > 0)))
        guidance.check(Context(model=self._model(), condition=names, resources=self._resources))
        if wiring.texts:
            check_no_classifier(guidance)
            wrong = [s for term in guidance.terms for s in term.specs() if not isinstance(s, str)]
            if wrong:
                raise UsageError(f"{guidance} names the condition {wrong[0]!r}, this pipeline's conditions are prompts")
            named = [s for term in guidance.terms for s in term.specs()]
            named += [] if self._negative is None else [self._negative]
            if named and not has_text_encoder(pipe):
                raise UsageError(
                    f"this pipeline has no text encoder, so {named[0]!r} cannot be encoded; pass "
                    "negative_prompt_embeds to the call, or load the text encoder"
                )

    # the block

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The pipeline guided, and after the last block on it as it was."""
        names = (self._wiring.network, *(("controlnet",) if self._wiring.control else ()))
        with standing_in(self._pipe, names, self):
            yield

    def call(self, original: Callable[..., Any], pipe: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's call, guided."""
        try:
            bound = self._signature.bind(pipe, *args, **kwargs)
        except TypeError:
            return original(pipe, *args, **kwargs)  # to complain in its own words
        name = self._wiring.network
        check_in_place(pipe, name, self._network)
        check_uncached(self._network, f"pipe.{name}")
        request = self._requests.of(bound)
        run = PipelineRun(
            pipe, self._wiring, self.guidance, self._model(), self._resources, request, self._batching, self._observe
        )
        with counting() as cost:
            try:
                with running(pipe, run):
                    return original(*bound.args, **bound.kwargs)
            finally:
                self.cost.rows, self.cost.calls = self.cost.rows + cost.rows, self.cost.calls + cost.calls
