"""What a pipeline can be asked for under a guidance, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.attached_resources import check_no_classifier
from fairlead.diffusers.guiding.call_conditions import samples_condition
from fairlead.diffusers.guiding.encoder_memory import encoders_of
from fairlead.diffusers.pretrained import setting
from fairlead.guide.checks import check_condition
from fairlead.guide.methods.compose import Compose
from fairlead.guide.moment import Context
from fairlead.guide.pairs import Pair
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model

OWN_GUIDANCE = {"guidance_rescale": "| rescale(...)", "skip_guidance_layers": "slg(...)"}
_FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")


def check_conditions(
    pipe: Any, guidance: Guidance, takes: str, model: Model, resources: Mapping[str, Any], negative: str | None
) -> None:
    """Refuse a guidance that does not suit what a pipeline's network is conditioned on.

    Args:
        takes: that, "label", "prompt" or "" for nothing.
        model: what is known of the pipeline before a call.
        negative: of the block.
    """
    specs = [spec for term in guidance.terms for spec in term.specs()]
    if not takes:
        check_condition(guidance, Condition(1))
        if specs:
            raise UsageError(f"{guidance} names {specs[0]!r}, but this pipeline is unconditional")
    one = (torch.zeros(1), torch.ones(1) > 0)
    condition = samples_condition(1, **({takes: one} if takes else {}))
    guidance.check(Context(model=model, condition=condition, resources=resources))
    if takes != "prompt":
        return
    check_no_classifier(guidance)
    wrong = [spec for spec in specs if not isinstance(spec, str)]
    if wrong:
        raise UsageError(f"{guidance} names the condition {wrong[0]!r}, this pipeline's conditions are prompts")
    named = [*specs, *([] if negative is None else [negative])]
    left_out = any(name.startswith("text_encoder") for name in pipe.components) and not encoders_of(pipe)
    if named and left_out:
        raise UsageError(
            f"this pipeline has no text encoder, so {named[0]!r} cannot be encoded; pass negative_prompt_embeds to the "
            "call, or load the text encoder"
        )


def check_renoising_scheduler(guidance: Guidance, scheduler: Any, given: Mapping[str, Any]) -> None:
    """Refuse a guidance that re-noises by itself on a scheduler that cannot be given another eps.

    Args:
        given: arguments of the pipeline's call.
    """
    untied = guidance.renoising()
    kind = type(scheduler).__name__
    noisy = given.get("eta") or setting(scheduler, "stochastic_sampling")
    if untied and (kind not in _FIRST_ORDER or noisy):
        with_noise = " with noise" if noisy else ""
        raise UsageError(
            f"{untied[0]} re-noises with another prediction than it denoises with, which {kind}{with_noise} cannot "
            "use; "
            f"choose {', '.join(_FIRST_ORDER)} without noise"
        )


def empty_prompt(guidance: Guidance, prompt: Any) -> bool:
    """Whether the call is one without a condition, as a guidance in place of the condition needs it."""
    replacing = next(iter(guidance.replacing()), None)
    if replacing is None:
        return False
    if prompt is None or any((prompt,) if isinstance(prompt, str) else prompt):
        raise UsageError(f"{replacing} replaces the prompt; call the pipeline with prompt=''")
    return True


def check_affine(guidance: Guidance, unknown: str) -> None:
    """Refuse a guidance that depends on the noise level or on x0, where these are not known, for the reason given."""
    if guidance.finishers or not all(_is_affine(term) for term in guidance.terms):
        raise UsageError(f"{guidance} depends on noise levels that are not known: {unknown}; cfg, compose and slg work")


def _is_affine(term: Term) -> bool:
    if isinstance(term, Compose):
        return True
    plain_scale = isinstance(getattr(term, "scale", None), int | float | tuple)
    return isinstance(term, Pair) and term.is_difference() and plain_scale
