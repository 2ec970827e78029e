"""Our guidance as a guider of Modular Diffusers.

A modular pipeline asks its guider which batches to evaluate, calls the network once for each, and has the outputs
combined. This guider keeps the calls back: it takes their arguments, and when the outputs are asked for evaluates the
branches that the guidance needs now, in one call, as an attached guidance does.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.caches import check_uncached
from fairlead.diffusers.guiding.branch_calls import NetworkCall, unasked
from fairlead.diffusers.guiding.pipeline_run import PipelineRun
from fairlead.diffusers.guiding.request import Request
from fairlead.diffusers.network_calls import CALLED, POOLED_XL
from fairlead.diffusers.perturbation import check_reachable, layers_of, plain
from fairlead.diffusers.pipelines import Wiring, diffusers
from fairlead.diffusers.schedulers import objective_of, schedule_of
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model, encode_nothing, identity

_ELSE = "or load the model as a DiffusionPipeline, not a modular one"
_Base: Any = diffusers().guiders.guider_utils.BaseGuidance


class Guider(_Base):  # type: ignore[misc]
    """A guider that follows a guidance:

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
            raise UsageError(f"{self.guidance} has to know where a step leads, which guiders do not; take cfg, {_ELSE}")
        objective_of(scheduler)
        self._run: PipelineRun | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._call: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
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
            self._run = None
        self._release()
        self._call = None

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """One batch, the conditional one."""
        pairs = [value for value in data.values() if isinstance(value, tuple)]
        self._pairs = [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor) and a is not b]
        return [self._prepare_batch(data, 0, "pred_cond")]

    def prepare_models(self, denoiser: Any) -> None:
        """Until :meth:`cleanup_models`, calls of the network are noted and not made."""
        super().prepare_models(denoiser)
        self._release()
        own, thread = denoiser.forward, threading.get_ident()

        def noted(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:  # somebody else's call of a network that is shared
                return own(*args, **kwargs)
            self._release()
            self._call = denoiser, args, kwargs
            return (NetworkCall.of(denoiser, args, kwargs).x,)

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
        assert self._call is not None
        network, args, kwargs = self._call
        if self._run is None:
            self._run = self._begin(network, kwargs)
        doubled_args, doubled = self._doubled(args, 0), self._doubled(kwargs, 0)
        null_args, null = self._doubled(args, 1), self._doubled(kwargs, 1)
        rows = len(NetworkCall.of(network, args, kwargs).x)
        joined = _joined(null_args, doubled_args, rows), _joined(null, doubled, rows)
        answer = self._run.guided(network, *joined[0], **joined[1])[0]
        pred = answer[rows:]
        return diffusers().guiders.guider_utils.GuiderOutput(pred=pred, pred_cond=None, pred_uncond=None)

    def _doubled(self, value: Any, which: int) -> Any:
        """Arguments with the conditional (0) or the null (1) one of each pair."""
        if isinstance(value, Mapping):
            return {name: self._doubled(part, which) for name, part in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(self._doubled(part, which) for part in value)
        return next((pair[which] for pair in self._pairs if pair[0] is value), value)

    def _begin(self, network: Any, kwargs: Mapping[str, Any]) -> PipelineRun:
        kind = type(plain(network)).__name__
        if kind not in CALLED or not CALLED[kind].states:
            known = ", ".join(name for name, called in CALLED.items() if called.states)
            raise UsageError(
                f"how {kind} is told its text is not known here (known: {known}); take a guider of diffusers"
            )
        pooled = [POOLED_XL] if "text_embeds" in (kwargs.get("added_cond_kwargs") or {}) else []
        component = "unet" if kind.startswith("UNet") else "transformer"
        check_uncached(network, f"pipe.{component}")
        wiring = Wiring(component, 0, dict.fromkeys([*CALLED[kind].texts(), *pooled], (0, 1)))
        parts = SimpleNamespace(scheduler=self.scheduler, vae=None)
        found = {k: tuple(v) for k, v in (self.layers or layers_of(network)).items()}
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
        )
        return PipelineRun(parts, wiring, self.guidance, model, {}, Request(None, True), "auto", None)


def _joined(null: Any, own: Any, rows: int) -> Any:
    """Arguments of both halves: what has a row a sample is joined, everything else is the same in both."""
    if isinstance(own, Mapping):
        return {name: _joined(null[name], part, rows) for name, part in own.items()}
    if isinstance(own, tuple | list):
        return type(own)(_joined(a, b, rows) for a, b in zip(null, own, strict=True))
    if isinstance(own, Tensor) and own.ndim and len(own) == rows:
        return torch.cat([null, own])
    return own
