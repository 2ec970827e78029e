"""Our guidance as a guider of Modular Diffusers.

A modular pipeline asks its guider which batches to evaluate, calls the network once for each, and has the outputs
combined. This guider keeps the calls back: it takes the arguments of the conditional and of the null call, and when the
outputs are asked for evaluates the branches that the guidance needs now, as an attached guidance does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.call_arguments import leaves, row_count, sample_lists, stacked
from fairlead.diffusers.guiding.call_conditions import PromptSpecs
from fairlead.diffusers.guiding.pattern import Pattern
from fairlead.diffusers.guiding.pipeline_denoiser import unasked
from fairlead.diffusers.guiding.pipeline_run import PipelineRun
from fairlead.diffusers.guiding.recorder import RecordedCall, output_of
from fairlead.diffusers.guiding.request import check_affine
from fairlead.diffusers.guiding.segments import segment_of, shaped
from fairlead.diffusers.layers import well_known
from fairlead.diffusers.perturbation import check_reachable, inner_network, layers_of, text_layers
from fairlead.diffusers.pipelines import diffusers
from fairlead.diffusers.schedulers import objective_of, schedule_of
from fairlead.guide.checks import check_unweighed
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model, encode_nothing, identity

_ELSE = "or load the model as a DiffusionPipeline, not a modular one"
_Base: Any = diffusers().guiders.guider_utils.BaseGuidance


class Guider(_Base):  # type: ignore[misc]
    """A guider for modular pipelines that follows a guidance of fairlead:

        pipe.update_components(guider=fl.Guider("cfg(5) + pag(2)", pipe.scheduler))

    Args:
        guidance: an expression, or the object.
        scheduler: the pipeline's; its table says what sigma is.
        layers: names of the layers that may be perturbed, by kind; None: those of the network.

    Raises:
        UsageError: for a guidance that names prompts, which a guider cannot encode, or needs another model; for a
            scheduler without a table.
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012 (the library wants a list)

    def __init__(
        self,
        guidance: Guidance | Term | str,
        scheduler: Any,
        layers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.guidance, self.scheduler, self.layers = to_guidance(guidance), scheduler, layers
        check_unweighed(self.guidance)
        self.register_to_config(guidance=str(self.guidance))
        named = [spec for term in self.guidance.terms for spec in term.specs()]
        if named:
            raise UsageError(
                f"{self.guidance} names {named[0]!r}, which a guider cannot encode; leave it out (the call's negative "
                f"prompt is the null), {_ELSE}"
            )
        wanted = self.guidance.resources()
        if wanted:
            raise UsageError(
                f"{self.guidance} needs {wanted[0].name!r}, which a guider cannot load; leave it out, {_ELSE}"
            )
        if self.guidance.renoising():
            raise UsageError(
                f"{self.guidance} needs to know where a step ends, which guiders do not know; use cfg, {_ELSE}"
            )
        objective_of(scheduler)
        self._run: PipelineRun | None = None
        self._template: Any = None
        self._calls: list[RecordedCall] = []
        self._held: tuple[Any, Any] | None = None

    @property
    def num_conditions(self) -> int:
        """Two: the pipeline then prepares what the null prediction sees."""
        return 2

    @property
    def is_conditional(self) -> bool:
        return True

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """A step of a run begins; with the first, what a guidance remembers begins anew."""
        super().set_state(step, num_inference_steps, timestep)
        if step == 0:
            self._run = self._template = None
        self._release()
        self._calls = []

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """Two batches, the conditional and the null one."""
        return [self._prepare_batch(data, i, name) for i, name in enumerate(self._input_predictions)]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> list[Any]:
        """The same, of fields of a block's state."""
        kinds = enumerate(self._input_predictions)
        return [self._prepare_batch_from_block_state(input_fields, data, i, name) for i, name in kinds]

    def prepare_models(self, denoiser: Any) -> None:
        """Until :meth:`cleanup_models`, calls of the network are noted and not made."""
        super().prepare_models(denoiser)
        self._release()
        own, thread = denoiser.forward, threading.get_ident()

        def noted(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:  # somebody else's call of a network that is shared
                return own(*args, **kwargs)
            call = RecordedCall.of("network", denoiser, args, kwargs)
            if self._template is None:  # what form its answers have, found out once
                self._release()
                with torch.no_grad():
                    self._template = denoiser(*args, **kwargs)
                self._hold(denoiser, noted)
            self._calls.append(call)
            return self._template

        self._hold(denoiser, noted)

    def _hold(self, denoiser: Any, noted: Callable[..., Any]) -> None:
        self._held = denoiser, vars(denoiser).get("forward")
        denoiser.forward = noted

    def cleanup_models(self, denoiser: Any) -> None:
        """The network as it was."""
        self._release()

    def _release(self) -> None:
        """Give the network its ``forward`` back: with the call that is noted, or when a run has failed before it."""
        if self._held is None:
            return
        (network, forward), self._held = self._held, None
        if forward is not None:
            network.forward = forward
        else:
            del network.forward

    def __call__(self, data: Sequence[Any]) -> Any:
        """The guided prediction, in the form of a guider's answer."""
        self._release()
        call, null = self._calls
        self._calls = []
        if self._run is None:
            self._run = self._begin(call, null, data[0].noise_pred)
        output, denoiser = self._run.guided(call, null)
        region, form = self._run.pattern.output, data[0].noise_pred

        def seen(value: Any) -> Any:
            """As the pipeline sees an output of its network."""
            value = stacked(value) if region is None else region.of(stacked(value))
            return value.reshape(form.shape) if isinstance(form, Tensor) else value

        own = output if denoiser.own is None else denoiser.own  # some scale the guided prediction to its norm
        return diffusers().guiders.guider_utils.GuiderOutput(pred=seen(output), pred_cond=seen(own), pred_uncond=None)

    def _begin(self, call: RecordedCall, null: RecordedCall, stored: Any) -> PipelineRun:
        network, answer = call.network, stacked(output_of(self._template))
        check_uncached(network, "the network")
        n, x = call.rows, stacked(call.x)
        listed = frozenset({(call.sample,)} if isinstance(call.x, list) else ()) | frozenset(
            sample_lists(call.arguments, n)
        )
        flat, kind = leaves(call.arguments, listed), type(inner_network(network)).__name__
        rows = {p: 0 for p, v in flat.items() if row_count(v) == n} if n > 1 or well_known(network) else None
        output = segment_of(stacked(stored), answer)
        latents = None if output is None else shaped(answer if output.dim is None else output.of(answer), x)
        pattern = Pattern(n, (call,), self._template, call.arguments, listed, rows, {}, {}, latents, output)
        found = {k: tuple(v) for k, v in (self.layers or {**layers_of(network), **text_layers(network)}).items()}
        model = Model(
            unasked,
            schedule_of(self.scheduler),
            (),
            encode_nothing,
            identity,
            embed=lambda condition: condition,
            objective=objective_of(self.scheduler),
            layers=found,
            reachable=partial(check_reachable, network),
            metadata={"unknown": ""},
        )
        parts = SimpleNamespace(scheduler=self.scheduler)
        run = PipelineRun(parts, pattern, {}, self.guidance, model, {}, None, PromptSpecs(()), False, "", "auto", None)
        if run.unknown:
            check_affine(self.guidance, f"how {kind} sees its samples is not known")
        return run
