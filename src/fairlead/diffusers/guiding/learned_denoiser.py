"""The network of a pipeline whose pattern was learned as a denoiser, with the arguments of the call at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, tally
from fairlead.core.prediction import Mixing, Prediction
from fairlead.diffusers.guiding.call_arguments import (
    asked_by_kind,
    leaves,
    nested_again,
    picked,
    rows_joined,
    same,
    stacked,
)
from fairlead.diffusers.guiding.pattern import Pattern
from fairlead.diffusers.guiding.recorder import Path, RecordedCall, output_of
from fairlead.diffusers.negative_text import told_with_negative
from fairlead.diffusers.network_calls import CALLED, check_differentiable, tokens_of
from fairlead.diffusers.perturbation import perturbing, plain
from fairlead.diffusers.positions import Tokens
from fairlead.diffusers.pretrained import setting
from fairlead.models.model import Model

_NULL = -1
PromptArguments = tuple[Mapping[str, Any], Mapping[Path, Any]]
"""The arguments of a call with another prompt, and those of them that differ from those of the call."""


class LearnedDenoiser:
    """A pipeline's network as a denoiser, with the arguments of the call that the pipeline makes now."""

    counts = True

    def __init__(
        self, pipe: Any, pattern: Pattern, named: Sequence[PromptArguments], model: Model, known: bool, texts: bool
    ) -> None:
        self.pipe, self.pattern, self.named, self.known, self.texts = pipe, pattern, named, known, texts
        self.schedule, self.objective = model.schedule, model.objective
        self._call: RecordedCall | None = None
        self._flat: dict[Path, Any] = {}
        self._null_flat: dict[Path, Any] = {}
        self._outputs: Tensor | None = None
        self.own: Tensor | None = None
        """What the network returned for the samples' own condition in this step, [n, ...]; None if it was not asked."""
        self._last: tuple[Prediction, Tensor] | None = None

    def receive(self, call: RecordedCall, null: RecordedCall | None) -> Tensor:
        """Take over a call of the pipeline, and its null rows where it has some; its noisy samples [n, ...] in
        float64."""
        self._call, self._last, self._outputs, self.own = call, None, None, None
        self._flat = leaves(call.arguments, self.pattern.listed)
        self._null_flat = self._flat if null is None else leaves(null.arguments, self.pattern.listed)
        x = stacked(call.x)
        if not self.known:
            out: Tensor = stacked(output_of(self.pattern.answer))
            return out.new_zeros(out.shape, dtype=torch.float64)
        part = self._latents(x)
        return part.to(torch.float32 if part.device.type == "mps" else torch.float64)

    def _latents(self, x: Tensor) -> Tensor:
        region = self.pattern.latents
        assert region is not None
        return x if region.dim is None else x.narrow(region.dim, 0, region.size)

    @property
    def call(self) -> RecordedCall:
        assert self._call is not None
        return self._call

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return self.predict(None, x_t, t, condition)

    def predict(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """The prediction of ``network``, which may be another one of the same kind."""
        network = self.call.network if network is None else network
        if x_t.requires_grad:
            check_differentiable(network)
        raw = self._output(network, x_t, condition)
        tally(len(x_t))
        output = raw if self.pattern.output is None else self.pattern.output.of(raw)
        if network is self.call.network:
            self._keep(raw.detach(), condition)
        output = output.to(x_t.dtype)
        if not self.known:
            return Prediction(output, output)
        mixing: Mixing = level_at(self.schedule, t, x_t).mixing
        prediction = Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))
        self._last = prediction, output
        return prediction

    def _output(self, network: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """What the network returns for the rows of a condition, [rows, ...]."""
        samples = [int(i) for i in condition.values["sample"].tolist()]

        def arguments(kind: tuple[int, int], rows: list[int]) -> dict[Path, Any]:
            return self._arguments(kind[0], [samples[r] for r in rows], rows, x_t, condition)

        def ask(kind: tuple[int, int], flat: Mapping[Path, Any], rows: Tensor | None) -> Tensor:
            own = condition if rows is None else condition[rows]
            return self._asked(network, kind[0], flat, x_t if rows is None else x_t[rows.to(x_t.device)], own)

        known, pairs = self.pattern.rows is not None, list(zip(self._kinds(condition), samples, strict=True))
        # where rows cannot be picked, a call takes each sample once
        kinds = [(pair[0], 0 if known else pairs[:i].count(pair)) for i, pair in enumerate(pairs)]
        return asked_by_kind(kinds, arguments, ask, self._rows if known else None)

    @property
    def _rows(self) -> Mapping[Path, int]:
        return {(self.call.sample,): 0, **(self.pattern.rows or {})}

    def _kinds(self, condition: Condition) -> list[int]:
        if not self.texts:
            return [0] * condition.n
        keep, prompt = condition.keep["prompt"].tolist(), condition.values["prompt"].tolist()
        return [int(p) if k else _NULL for k, p in zip(keep, prompt, strict=True)]

    def _arguments(
        self, kind: int, samples: Sequence[int], rows: Sequence[int], x_t: Tensor, condition: Condition
    ) -> dict[Path, Any]:
        """The arguments of these samples under one condition."""
        pattern, n = self.pattern, self.pattern.n
        instead: Mapping[Path, Any] = pattern.own if kind == 0 else {}
        if kind == _NULL:
            instead = pattern.null or {}
        elif kind > 0:
            instead = self.named[kind - 1][1]
        sample = (self.call.sample,)
        flat = {**(self._null_flat if kind == _NULL else self._flat), **instead}
        flat[sample] = self._samples(flat[sample], samples, x_t[list(rows)])
        whole = list(samples) == list(range(n))
        for path, value in flat.items():
            if path == sample:
                continue
            if len(path) == 1 and path[0] in condition.values:  # embeddings that guidance has changed
                flat[path] = condition.values[str(path[0])][list(rows)].to(value)
            elif not whole and path in (pattern.rows or {}):
                flat[path] = picked(value, samples, n, self._rows[path])
        return flat

    def _samples(self, x: Any, samples: Sequence[int], x_t: Tensor) -> Any:
        """The argument for the noisy samples, with ``x_t`` [rows, ...] in the place of the latents."""
        own = picked(x, samples, self.pattern.n)
        if not self.known:
            return own
        assert self.pattern.latents is not None
        stacked = torch.stack(own) if isinstance(own, list) else own
        region = self.pattern.latents
        made = replace(region, factor=1.0).put(x_t.to(stacked.dtype), stacked)
        return list(made) if isinstance(own, list) else made

    def _asked(self, network: Any, kind: int, flat: Mapping[Path, Any], x_t: Tensor, condition: Condition) -> Tensor:
        form = self.named[kind - 1][0] if kind > 0 else self.pattern.form
        asked = nested_again(form, self.pattern.listed, flat)

        def told(of: Condition) -> dict[str, Any]:
            return asked if of is condition else self._texts(of, x_t)

        arguments, text = told_with_negative(plain(network), condition, told)
        with perturbing(network, condition.perturb, image_tokens(network, x_t), text):
            answer = network(**arguments, return_dict=not self.call.as_tuple)
        output: Tensor = stacked(output_of(answer))
        return output

    def _texts(self, condition: Condition, x_t: Tensor) -> dict[str, Any]:
        """The arguments for the rows of a condition, of which those of its text count."""
        pairs = enumerate(zip(self._kinds(condition), condition.values["sample"].tolist(), strict=True))
        parts = [self._arguments(kind, [int(sample)], [row], x_t, condition) for row, (kind, sample) in pairs]
        return rows_joined(parts, self._rows)

    def parted(self, output: Any, scale: float) -> list[Any]:
        """The answers for the conditional and the null call that the pipeline's own u + scale (c - u) makes ``output``
        of, so that what it does with that beside, it does to ours: c is what the network returned."""
        if self.own is None:
            return [output, output]
        if isinstance(output, list):
            return [list(part) for part in self.parted(torch.stack(output), scale)]
        c, wide = self.own.double(), output.double()
        return [self.own.to(output), ((scale * c - wide) / (scale - 1)).to(output)]

    def answered(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Any:
        """A prediction as the output that the network would have had."""
        if not self.known:
            output = prediction.x0
        elif self._last is not None and self._last[0] is prediction:
            output = self._last[1]  # one branch alone: its own bits
        else:
            output = level_at(self.schedule, t, x_t).mixing.target(prediction.x0, prediction.eps, self.objective)
        form = stacked(output_of(self.pattern.answer))
        base = self._outputs if self._outputs is not None else torch.zeros_like(form)
        output = output.detach().to(form.dtype)
        region = self.pattern.output
        whole = output if region is None else region.put(output, base)
        listed = isinstance(output_of(self.pattern.answer), list)
        return list(whole) if listed else whole

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values, for guidance that changes them."""
        own, null = {**self._flat, **self.pattern.own}, {**self._null_flat, **(self.pattern.null or {})}
        floating = [
            p
            for p, v in own.items()
            if len(p) == 1 and isinstance(v, Tensor) and v.is_floating_point() and len(v) == self.pattern.n
            if p != (self.call.sample,) and not same(v, null.get(p))
        ]
        if any(p not in null or null[p].shape != own[p].shape for p in floating):
            floating = []
        samples = [int(i) for i in condition.values["sample"].tolist()]
        more: dict[str, Tensor] = {}
        for path in floating:
            rows = []
            for sample, kind in zip(samples, self._kinds(condition), strict=True):
                source = own if kind == 0 else null if kind == _NULL else self.named[kind - 1][1]
                rows.append(source[path][sample : sample + 1])
            more[str(path[0])] = torch.cat(rows)
        kept = dict.fromkeys(more, condition.keep["prompt"])
        return replace(condition, values={**condition.values, **more}, keep={**condition.keep, **kept})

    def _keep(self, raw: Tensor, condition: Condition) -> None:
        """What the output holds beside the prediction (a variance): that of the samples' own branch."""
        kinds = self._kinds(condition)
        clean = [True] * len(kinds)
        for mask in condition.perturb.values():
            clean = [ok and not worse for ok, worse in zip(clean, mask.tolist(), strict=True)]
        mine = [row for row, kind in enumerate(kinds) if kind == 0 and clean[row]]
        if len(mine) == self.pattern.n:
            self.own = raw[mine]
        mine = mine or list(range(len(kinds)))
        if self._outputs is None:
            self._outputs = raw.new_zeros(self.pattern.n, *raw.shape[1:])
        places = [int(condition.values["sample"][row]) for row in mine]
        self._outputs = self._outputs.index_copy(0, torch.tensor(places, device=raw.device), raw[mine])


def image_tokens(network: Any, x_t: Tensor) -> Tokens | None:
    """Where the positions of a picture are among those of an attention layer; None: not known."""
    patch = setting(network, "patch_size", 0)
    if x_t.ndim != 4 or not isinstance(patch, int):
        return None
    alone = type(plain(network)).__name__ not in CALLED
    return replace(tokens_of(network, (x_t.shape[-2], x_t.shape[-1])), alone=alone)
