"""What a call of a pipeline asks for: its arguments checked, those that take part in guidance changed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.diffusers.pipelines import Wiring, encoded
from fairlead.diffusers.pretrained import setting
from fairlead.guide.terms import Guidance

_OWN_GUIDANCE = {"guidance_rescale": "| rescale(...)", "skip_guidance_layers": "slg(...)"}
_NEGATIVES = ("negative_prompt", "negative_prompt_embeds")
_FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")


@dataclass(frozen=True, eq=False)
class Request:
    """What a call of the pipeline asked for, checked.

    Attributes:
        generator: of the call, one or a list.
        doubled: whether the pipeline assembles a null and a conditional half.
        null: text argument -> null rows, where the batch will not have them.
        named: the prompts that the guidance names -> text argument -> one row.
        without_null: why there are no null rows, where there are none.
        negative: how a negative was given, which then has to be used; "" if none was.
        empty: whether the prompt stands for no condition at all.
    """

    generator: Any
    doubled: bool
    null: Mapping[str, Tensor] = field(default_factory=dict)
    named: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    without_null: str = ""
    negative: str = ""
    empty: bool = False


@dataclass(frozen=True, eq=False)
class Requests:
    """Reads calls of one pipeline under one guidance.

    Attributes:
        kind: the pipeline's class.
        network: what it denoises with.
        negative: a negative prompt for every call.
    """

    pipe: Any
    kind: type
    wiring: Wiring
    network: Any
    guidance: Guidance
    negative: str | None

    def of(self, bound: inspect.BoundArguments) -> Request:
        """Check the call's arguments and change those that take part in guidance."""
        wiring, given = self.wiring, bound.arguments
        for name, instead in _OWN_GUIDANCE.items():
            if given.get(name):
                raise UsageError(
                    f"{name} has no effect while a guidance is attached; write it as part of it: {instead}"
                )
        if wiring.packed and any(value is not None for name, value in given.items() if "ip_adapter_image" in name):
            raise UsageError(
                f"{self.kind.__name__} shows another image prompt to its negative call, which attach does not do yet; "
                "call it without ip_adapter_image"
            )
        self._check_untied(given)
        negative = self._take_negative(given)
        full = inspect.BoundArguments(bound.signature, type(given)(given))
        full.apply_defaults()
        arguments = dict(full.arguments)
        named = self._named(arguments)
        scale = arguments.get("guidance_scale")
        distilled = setting(self.network, "time_cond_proj_dim") is not None
        doubled = wiring.null_half is not None and scale is not None and scale > 1 and not distilled
        null: dict[str, Any] = {}
        if wiring.distilled and negative and not distilled:
            null = self._null(given, arguments)
        return Request(
            arguments.get("generator"),
            doubled,
            null,
            named,
            self._without_null(distilled, scale),
            negative,
            self._empty(arguments),
        )

    def _without_null(self, distilled: bool, scale: float | None) -> str:
        kind = self.kind.__name__
        if distilled:
            return (
                f"{kind}'s network is distilled: it takes the guidance scale as an input (time_cond_proj_dim) and has "
                "no null prediction; use the call's guidance_scale, or methods without one such as pag"
            )
        if self.wiring.distilled:
            return (
                f"{kind}'s network has no null condition of its own (its guidance is distilled into it); give one: "
                "attach(..., negative='')"
            )
        return f"guidance_scale={scale} lets {kind} prepare none; pass anything above 1, it changes nothing else"

    def _check_untied(self, given: Mapping[str, Any]) -> None:
        untied = self.guidance.renoising()
        if not untied:
            return
        scheduler = self.pipe.scheduler
        kind = type(scheduler).__name__
        noisy = given.get("eta") or setting(scheduler, "stochastic_sampling")
        if kind not in _FIRST_ORDER or noisy:
            with_noise = " with noise" if noisy else ""
            raise UsageError(
                f"{untied[0]} re-noises with another prediction than it denoises with, which {kind}{with_noise} cannot "
                f"be told; take {', '.join(_FIRST_ORDER)} without noise"
            )

    def _take_negative(self, given: dict[str, Any]) -> str:
        """Put ``negative`` into the call; what was given as a negative, in words."""
        own = next((name for name in _NEGATIVES if given.get(name) is not None), None)
        if self.negative is None:
            empty = own is None or (isinstance(given[own], str) and not given[own] and not self.wiring.distilled)
            return "" if empty else str(own)
        if own is not None:
            raise UsageError(f"negative={self.negative!r} was given to attach, and {own} to the call; keep one")
        prompt, embeds = given.get("prompt"), given.get("prompt_embeds")
        count = len(prompt) if isinstance(prompt, list) else None if embeds is None else len(embeds)
        given["negative_prompt"] = self.negative if count is None else [self.negative] * count
        return f"negative={self.negative!r}"

    def _null(self, given: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The null rows of a pipeline that makes a network call of its own for them, taken out of its call."""
        assert self.wiring.texts is not None
        prompt = arguments.get("negative_prompt")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        more = {
            "prompt": prompts,
            "prompt_2": arguments.get("negative_prompt_2"),
            "prompt_embeds": arguments.get("negative_prompt_embeds"),
            "pooled_prompt_embeds": arguments.get("negative_pooled_prompt_embeds"),
            "num_images_per_prompt": arguments.get("num_images_per_prompt", 1),
        }
        answer = encoded(self.pipe, (), arguments, **more)
        null = {path: answer[place] for path, (place, _) in self.wiring.texts.items()}
        if prompts is not None and len(prompts) == 1:
            null = {path: rows[:1] for path, rows in null.items()}
        for name in [name for name in given if name.startswith(("negative_prompt", "negative_pooled"))]:
            given[name] = None
        return null

    def _named(self, arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The prompts that the guidance names, encoded: one row each."""
        texts = self.wiring.texts
        specs = list(dict.fromkeys(str(s) for term in self.guidance.terms for s in term.specs())) if texts else []
        if not specs or texts is None:
            return {}
        answer = encoded(self.pipe, specs, arguments)
        return {
            spec: {path: answer[place][i : i + 1] for path, (place, _) in texts.items()} for i, spec in enumerate(specs)
        }

    def _empty(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the call is one without a condition, as a guidance in place of the condition needs it."""
        replacing = next(iter(self.guidance.replacing()), None)
        if replacing is None or not self.wiring.texts:
            return False
        prompt = arguments.get("prompt")
        if prompt is None or any((prompt,) if isinstance(prompt, str) else prompt):
            raise UsageError(f"{replacing} stands in place of the prompt; call the pipeline with prompt=''")
        return True
