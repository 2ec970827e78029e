"""A pipeline of any class as a Model: its calls are rehearsed, our samplers step, its own ending decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating, gradients_of
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, as_time
from fairlead.diffusers.caches import check_switched_off
from fairlead.diffusers.guiding.call_arguments import (
    Rows,
    asked_by_kind,
    leaves,
    nested_again,
    picked,
    rows_joined,
    same,
    stacked,
)
from fairlead.diffusers.guiding.pipeline_calls import PipelineCalls
from fairlead.diffusers.guiding.recorder import Path, output_of
from fairlead.diffusers.layers import image_tokens
from fairlead.diffusers.negative_text import with_negative_text
from fairlead.diffusers.network_calls import check_differentiable
from fairlead.diffusers.perturbation import check_reachable, inner_network, layers_of, perturbing, text_layers
from fairlead.diffusers.pipelines import EXAMPLES, diffusers
from fairlead.diffusers.pretrained import setting, weight_hash
from fairlead.diffusers.schedulers import is_flow, objective_of, schedule_of
from fairlead.models.model import Given, Model, Spec, listed, only_texts

_NULL = 0
_REMEMBERED = 256


def learned_model(pipe: Any, name: str, size: int | tuple[int, int] | None) -> Model:
    """A pipeline of text to image as a model.

    Args:
        name: for the metadata.
        size: height and width of its latents; None: of what it makes by default.

    Raises:
        UsageError: for pipelines that need more than a prompt, and those whose network is called in a way that can be
            followed inside a call only; ``fl.attach`` takes these.
    """
    calls = PipelineCalls.of(pipe, size)
    scheduler = pipe.scheduler
    schedule = schedule_of(scheduler, float(setting(scheduler, "shift", 1.0)) if is_flow(scheduler) else 1.0)
    objective = objective_of(scheduler)
    network = calls.own.network
    prompts = RehearsedPrompts(calls)
    denoiser = RehearsedNetwork(calls, prompts, schedule, objective)
    return Model(
        denoiser=denoiser,
        schedule=schedule,
        shape=calls.shape,
        encode=prompts,
        decode=calls.decoded,
        conditions=("text",),
        examples=EXAMPLES,
        objective=objective,
        layers={**layers_of(network), **text_layers(network)},
        embed=prompts.embedded,
        metadata={
            "pipeline": name,
            "kind": calls.kind,
            "weights_hash": weight_hash(network),
            "objective": objective,
            "scheduler": type(scheduler).__name__,
            "diffusers": diffusers().__version__,
        },
        device=network.device,
        to_space=partial(_no_encoder, calls.kind),
        image_shape=calls.image_shape,
        reachable=partial(check_reachable, network),
    )


class RehearsedPrompts:
    """Prompts -> Condition of their numbers; null is what the pipeline's own guidance takes for it. The arguments of
    the network for a prompt are those of a rehearsal, and are remembered."""

    __repr__ = brief

    def __init__(self, calls: PipelineCalls) -> None:
        self.calls = calls
        self._numbers: dict[str, int] = {}
        self._known: dict[int, tuple[Mapping[str, Any], Mapping[Path, Any]]] = {}
        self._null = calls.null()
        own = leaves(calls.own.arguments, calls.pattern.listed)
        other = leaves(calls.arguments(EXAMPLES[1]).arguments, calls.pattern.listed)
        texts = [p for p, v in own.items() if p not in calls.times and p != (calls.own.sample,)]
        self._texts = [p for p in texts if not (same(own[p], other.get(p)) and same(own[p], self._null.get(p)))]

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        """Raises UsageError for a spec that is no text."""
        named = [self.named(spec) for spec in listed(specs)]
        numbers = [_NULL if prompt is None else self._number_of(prompt) for prompt in named]
        keep = torch.tensor([prompt is not None for prompt in named])
        return Condition(len(named), {"prompt": torch.tensor(numbers)}, {"prompt": keep})

    def named(self, spec: Given) -> str | None:
        return only_texts("takes prompts, write one as text", spec)

    def _number_of(self, prompt: str) -> int:
        number = self._numbers.setdefault(prompt, len(self._numbers) + 1)
        self.of(number)  # encoded before sampling starts
        return number

    def of(self, number: int) -> tuple[Mapping[str, Any], Mapping[Path, Any]]:
        """The arguments of the network for a prompt by its number, nested and by path; 0 is null."""
        if number == _NULL:
            return self.calls.own.arguments, self._null
        if number not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            prompt = next(text for text, known in self._numbers.items() if known == number)
            call = self.calls.arguments(prompt)
            self._known[number] = call.arguments, leaves(call.arguments, self.calls.pattern.listed)
        return self._known[number]

    def numbers(self, condition: Condition) -> list[int]:
        """Of every row, the number of its prompt."""
        keep, numbers = condition.keep["prompt"].tolist(), condition.values["prompt"].tolist()
        return [int(number) if kept else _NULL for kept, number in zip(keep, numbers, strict=True)]

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values, for guidance that changes them; as it is where prompts have
        embeddings of different lengths."""
        parts = [self.of(number)[1] for number in self.numbers(condition)]
        values: dict[str, Tensor] = {}
        for path in self._texts:
            rows = [part.get(path) for part in parts]
            tensors = [row for row in rows if isinstance(row, Tensor) and row.is_floating_point() and len(row) == 1]
            alike = len(tensors) == len(parts) and all(row.shape == tensors[0].shape for row in tensors)
            if len(path) == 1 and alike and tensors:
                values[str(path[0])] = torch.cat(tensors)
        kept = dict.fromkeys(values, condition.keep["prompt"])  # those that it has may be changed already
        return replace(condition, values={**values, **condition.values}, keep={**kept, **condition.keep})


class RehearsedNetwork:
    """A pipeline's network as a denoiser of conditions by :class:`RehearsedPrompts`."""

    counts = True

    def __init__(
        self, calls: PipelineCalls, prompts: RehearsedPrompts, schedule: NoiseSchedule, objective: Any
    ) -> None:
        self.calls, self.prompts, self.schedule, self.objective = calls, prompts, schedule, objective
        self.network = calls.own.network

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        check_switched_off(self.network, f"pipe.{self.calls.own.name}")
        if torch.is_grad_enabled() and x_t.requires_grad:
            check_differentiable(self.network)
        level = level_at(self.schedule, as_time(t), x_t)
        network_time = 1000 * level.mixing.sigma.float() if self.objective == "flow" else level.time
        timestep = network_time.reshape(-1).expand(len(x_t))

        def arguments(number: int, rows: list[int]) -> dict[Path, Any]:
            return self._arguments(number, rows, x_t, timestep, condition)

        def ask(number: int, flat: Mapping[Path, Any], rows: Tensor | None) -> Tensor:
            return self._asked(number, flat, x_t, condition if rows is None else condition[rows])

        with evaluating(self.network), gradients_of(x_t, *condition.values.values()):
            if self.calls.rows is None or self._uneven(timestep):
                parts = [ask(n, arguments(n, [i]), torch.tensor([i])) for i, n in enumerate(self._kinds(condition))]
                output = torch.cat(parts)
            else:
                output = asked_by_kind(self._kinds(condition), arguments, ask, self._rows)
        tally(len(x_t))
        assert self.calls.pattern.output is not None
        output = self.calls.pattern.output.of(output).to(x_t.dtype).reshape(x_t.shape)
        mixing = level.mixing
        return Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))

    def _kinds(self, condition: Condition) -> list[int]:
        return self.prompts.numbers(condition)

    @property
    def _rows(self) -> Rows:
        return {(self.calls.own.sample,): 0, **(self.calls.rows or {})}

    def _uneven(self, timestep: Tensor) -> bool:
        """Whether rows differ in their time, where the network takes one for all."""
        shared = any(path not in self._rows for path in self.calls.times)
        return shared and bool((timestep != timestep[0]).any())

    def _arguments(
        self, number: int, rows: list[int], x_t: Tensor, timestep: Tensor, condition: Condition
    ) -> dict[Path, Any]:
        calls, flat = self.calls, dict(self.prompts.of(number)[1])
        for path, dim in (calls.rows or {}).items():
            if path in flat:
                flat[path] = picked(flat[path], [0] * len(rows), 1, dim)
            if len(path) == 1 and path[0] in condition.values:  # embeddings that guidance has changed
                flat[path] = condition.values[str(path[0])][rows].to(flat[path])
        flat[(calls.own.sample,)] = calls.samples(x_t[rows].to(device=self.network.device))
        for path, (factor, offset) in calls.times.items():
            flat[path] = _like(factor * timestep[rows] + offset, flat[path])
        return flat

    def _asked(self, number: int, flat: Mapping[Path, Any], x_t: Tensor, condition: Condition) -> Tensor:
        asked = nested_again(self.prompts.of(number)[0], self.calls.pattern.listed, flat)

        def arguments_of(of: Condition) -> dict[str, Any]:
            return asked if of is condition else self._texts(of, x_t)

        arguments, text = with_negative_text(inner_network(self.network), condition, arguments_of)
        tokens = image_tokens(self.network, x_t)
        with perturbing(self.network, condition.perturb, tokens, text, arguments):
            answer = self.network(**arguments, return_dict=not self.calls.own.as_tuple)
        output: Tensor = stacked(output_of(answer))
        return output

    def _texts(self, condition: Condition, x_t: Tensor) -> dict[str, Any]:
        """The arguments for the rows of a condition, of which those of its text count."""
        times = torch.zeros(len(x_t))
        parts = [self._arguments(kind, [i], x_t, times, condition) for i, kind in enumerate(self._kinds(condition))]
        return rows_joined(parts, self._rows)


def _like(times: Tensor, known: Any) -> Any:
    """Times [rows] in the form of an argument with one entry for each row, or one for all."""
    if not isinstance(known, Tensor):
        return float(times[0])
    own = times.to(known.device, known.dtype if known.is_floating_point() else times.dtype)
    return own.reshape(-1, *[1] * (known.ndim - 1)).expand(known.shape) if known.ndim else own[0]


def _no_encoder(kind: str, images: Tensor) -> Tensor:
    raise UsageError(
        f"how {kind} encodes images as latents is not known, so real images are neither measured nor edited"
    )
