"""The network of a pipeline as a denoiser, with the arguments of the call that the pipeline makes now.

Over 300 lines, as one class turns samples and conditions into a call, and its answer into a prediction and back.
"""

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
from fairlead.diffusers.guiding.control_calls import ControlCall
from fairlead.diffusers.guiding.pattern import Pattern, PromptCall
from fairlead.diffusers.guiding.recorder import Path, RecordedCall, output_of
from fairlead.diffusers.layers import image_tokens
from fairlead.diffusers.negative_text import with_negative_text
from fairlead.diffusers.network_calls import LABELS, check_differentiable, null_label
from fairlead.diffusers.packing import packed, packs, picture_size, unpacked
from fairlead.diffusers.perturbation import inner_network, perturbing
from fairlead.models.model import Model

NULL_KIND = -1
"""Of rows that are null; 0 is a sample's own condition, i the i-th prompt that the guidance names."""


def unasked(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
    """The denoiser of a pipeline between its calls."""
    raise AssertionError("a pipeline denoises inside its calls only")


class PipelineDenoiser:
    """A pipeline's network as a denoiser of conditions by :mod:`~fairlead.diffusers.guiding.call_conditions`.

    Args:
        pipe: the pipeline.
        pattern: how it calls its network.
        named: calls with the prompts that the guidance names.
        model: what is known of the pipeline before the call.
        known: whether samples and noise levels are; else predictions are the network's outputs.
    """

    counts = True

    def __init__(self, pipe: Any, pattern: Pattern, named: Sequence[PromptCall], model: Model, known: bool) -> None:
        self.pattern, self.named, self.known = pattern, named, known
        self.schedule, self.objective = model.schedule, model.objective
        self._call: RecordedCall | None = None
        self._flat: dict[Path, Any] = {}
        self._null_flat: dict[Path, Any] = {}
        self._x_t: Tensor | None = None
        self._packs = known and packs(pipe)
        self._size: tuple[int, int] | None = None
        self._control: ControlCall | None = None
        self._controlled: Mapping[Path, int] = {}
        self._outputs: Tensor | None = None
        self.own: Tensor | None = None
        """What the network returned for the samples' own condition in this step, [n, ...]; None if it was not asked."""
        self._last: tuple[Prediction, Tensor] | None = None
        self._answered: Mapping[int, Tensor] = {}

    def receive(
        self,
        call: RecordedCall,
        null: RecordedCall | None,
        control: ControlCall | None = None,
        answered: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Take over a call of the pipeline, its null rows where it has some, the call of its control network, and what
        the network has returned for predictions of the step, by their places; its noisy samples [n, ...] in float64,
        [n, c, h, w] where they are patches of a picture."""
        places = {0: self.pattern.own_at, NULL_KIND: self.pattern.null_at}
        self._answered = {kind: answered[place] for kind, place in places.items()} if answered else {}
        self._call, self._last, self._outputs, self.own = call, None, None, None
        self._flat = leaves(call.arguments, self.pattern.listed)
        self._null_flat = self._flat if null is None else leaves(null.arguments, self.pattern.listed)
        if control is not None and (self._control is None or not self._controlled):
            self._controlled = control.places(self._flat)
        self._control = control
        x = stacked(call.x)
        if not self.known:
            out: Tensor = stacked(output_of(self.pattern.answer))
            return out.new_zeros(out.shape, dtype=torch.float64)
        part = self._latents(x)
        if self._packs and part.ndim == 3:
            self._size = picture_size(call.arguments, part.shape[1])
            part = part if self._size is None else unpacked(part, self._size)
        # at low noise eps is a small difference of large numbers; one kind of device has no float64
        self._x_t = part.to(torch.float32 if part.device.type == "mps" else torch.float64)
        return self._x_t

    def _native(self, x: Tensor) -> Tensor:
        """Samples, or a prediction, in the form that the network has them in."""
        return x if self._size is None else packed(x)

    def _picture(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`_native`."""
        return x if self._size is None else unpacked(x, self._size)

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
        output = raw if self.pattern.output is None else self.pattern.output.of(raw)
        if network is self.call.network:
            self._keep(raw.detach(), condition)
        output = output.to(x_t.dtype)
        if not self.known:
            return Prediction(output, output)
        output = self._picture(output)
        mixing: Mixing = level_at(self.schedule, t, x_t).mixing
        prediction = Prediction(mixing.x0_of(output, self.objective, x_t), mixing.eps_of(output, self.objective, x_t))
        self._last = prediction, output
        return prediction

    def _output(self, network: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """What the network returns for the rows of a condition, [rows, ...]; it is asked for those that it has not
        answered."""
        samples, kinds = self._samples_of(condition), self._kinds(condition)
        known = self._answered_rows(kinds, samples, x_t, condition) if network is self.call.network else []
        if not known:
            return self._ask(network, x_t, condition)
        answers = torch.stack([self._answered[kinds[row]][samples[row]] for row in known])
        rest = [row for row in range(condition.n) if row not in known]
        if rest:
            answers = torch.cat([answers, self._ask(network, x_t[rest], condition[torch.tensor(rest)])])
        return answers[torch.tensor([*known, *rest], device=answers.device).argsort()]

    def _answered_rows(
        self, kinds: Sequence[int], samples: Sequence[int], x_t: Tensor, condition: Condition
    ) -> list[int]:
        """The rows of which the network's answer is known: as the pipeline calls it, at its own samples."""
        own = condition.values.keys() <= {"sample", "prompt", "label"} and not x_t.requires_grad
        if not self._answered or not own or not (self._x_t is None or torch.equal(x_t, self._x_t[list(samples)])):
            return []
        perturbed = [mask.tolist() for mask in condition.perturb.values()]
        return [
            row for row, kind in enumerate(kinds) if kind in self._answered and not any(mask[row] for mask in perturbed)
        ]

    def _ask(self, network: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """What the network returns for the rows of a condition when it is called now, [rows, ...]."""
        samples = self._samples_of(condition)

        def arguments(kind: tuple[int, int], rows: list[int]) -> dict[Path, Any]:
            return self._arguments(kind[0], [samples[r] for r in rows], rows, x_t, condition)

        def ask(kind: tuple[int, int], flat: Mapping[Path, Any], rows: Tensor | None) -> Tensor:
            own = condition if rows is None else condition[rows]
            return self._asked(network, kind[0], flat, x_t if rows is None else x_t[rows.to(x_t.device)], own)

        known, pairs = self.pattern.rows is not None, list(zip(self._kinds(condition), samples, strict=True))
        # where rows cannot be picked, a call takes each sample once
        kinds = [(pair[0], 0 if known else pairs[:i].count(pair)) for i, pair in enumerate(pairs)]
        output = asked_by_kind(kinds, arguments, ask, self._rows if known else None)
        tally(len(x_t))
        return output

    def _samples_of(self, condition: Condition) -> list[int]:
        return [int(i) for i in condition.values["sample"].tolist()]

    @property
    def _rows(self) -> Mapping[Path, int]:
        return {(self.call.sample,): 0, **(self.pattern.rows or {})}

    def _kinds(self, condition: Condition) -> list[int]:
        if "prompt" not in condition.values:
            return [0] * condition.n
        keep, prompt = condition.keep["prompt"].tolist(), condition.values["prompt"].tolist()
        return [int(p) if k else NULL_KIND for k, p in zip(keep, prompt, strict=True)]

    def _arguments(
        self,
        kind: int,
        samples: Sequence[int],
        rows: Sequence[int],
        x_t: Tensor,
        condition: Condition,
        controlled: bool = True,
    ) -> dict[Path, Any]:
        """The arguments of these samples under one condition.

        Args:
            controlled: whether what a control network tells is wanted.
        """
        pattern, n = self.pattern, self.pattern.n
        flat = self._of_kind(kind)
        sample = (self.call.sample,)
        flat[sample] = self._samples(flat[sample], samples, x_t[list(rows)])
        whole = list(samples) == list(range(n))
        for path, value in flat.items():
            if path == sample:
                continue
            if value_name(path) in condition.values:  # embeddings that guidance has changed
                flat[path] = condition.values[value_name(path)][list(rows)].to(value)
            elif not whole and path in (pattern.rows or {}):
                flat[path] = picked(value, samples, n, self._rows[path])
        if "label" in condition.values:
            label, keep = (of["label"][list(rows)] for of in (condition.values, condition.keep))
            flat[(LABELS,)] = torch.where(keep, label, null_label(inner_network(self.call.network))).to(flat[(LABELS,)])
        if controlled and self._asks_control(kind, samples, x_t[list(rows)]):
            assert self._control is not None
            x, place = stacked(flat[sample]), pattern.null_at if kind == NULL_KIND else pattern.own_at
            made = self._control.answers(kind, place, samples, x if pattern.latents is None else self._latents(x))
            flat |= {path: made[j].to(flat[path]) for path, j in self._controlled.items()}
        return flat

    def _of_kind(self, kind: int) -> dict[Path, Any]:
        """The arguments of all samples under one condition, with the noisy samples of the call."""
        if kind == NULL_KIND:
            return {**self._null_flat, **(self.pattern.null or {})}
        return {**self._flat, **(self.pattern.own if kind == 0 else self.named[kind - 1].unlike)}

    def _asks_control(self, kind: int, samples: Sequence[int], x_t: Tensor) -> bool:
        """Whether the control network's output is not for these rows."""
        control = self._control
        if control is None or not self._controlled or (kind == NULL_KIND and not control.sees_null()):
            return False
        moved = self._x_t is not None and (x_t.requires_grad or not torch.equal(self._x_t[list(samples)], x_t))
        return moved or bool(control.texts.get(kind))

    def _samples(self, x: Any, samples: Sequence[int], x_t: Tensor) -> Any:
        """The argument for the noisy samples, with ``x_t`` [rows, ...] in the place of the latents."""
        own = picked(x, samples, self.pattern.n)
        if not self.known:
            return own
        assert self.pattern.latents is not None
        stacked = torch.stack(own) if isinstance(own, list) else own
        region = self.pattern.latents
        made = replace(region, factor=1.0).put(self._native(x_t).to(stacked.dtype), stacked)
        return list(made) if isinstance(own, list) else made

    def _asked(self, network: Any, kind: int, flat: Mapping[Path, Any], x_t: Tensor, condition: Condition) -> Tensor:
        form = self.named[kind - 1].arguments if kind > 0 else self.pattern.form
        asked = nested_again(form, self.pattern.listed, flat)

        def arguments_of(of: Condition) -> dict[str, Any]:
            return asked if of is condition else self._texts(of, x_t)

        arguments, text = with_negative_text(inner_network(network), condition, arguments_of)
        region, patches = self.pattern.latents, self._size is not None
        beside = patches and region is not None and region.dim == 1  # other images follow in the row
        tokens = None if beside else image_tokens(network, x_t, patches)
        with perturbing(network, condition.perturb, tokens, text, arguments):
            answer = network(**arguments, return_dict=not self.call.as_tuple)
        output: Tensor = stacked(output_of(answer))
        return output

    def _texts(self, condition: Condition, x_t: Tensor) -> dict[str, Any]:
        """The arguments for the rows of a condition, of which those of its text count."""
        pairs = enumerate(zip(self._kinds(condition), condition.values["sample"].tolist(), strict=True))
        parts = [self._arguments(kind, [int(sample)], [row], x_t, condition, False) for row, (kind, sample) in pairs]
        return rows_joined(parts, self._rows)

    def parted(self, output: Any, scale: float) -> list[Any]:
        """The answers for the conditional and the null call that the pipeline's own u + scale (c - u) makes ``output``
        of, so that what it does with that beside, it does to ours: c is what the network returned."""
        if self.own is None:
            return [output, output]
        if isinstance(output, list):
            return [list(part) for part in self.parted(torch.stack(output), scale)]
        return [self.own.to(output), rest_of(output, self.own, scale)]

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
        output = self._native(output.detach()).to(form.dtype)
        region = self.pattern.output
        whole = output if region is None else region.put(output, base)
        listed = isinstance(output_of(self.pattern.answer), list)
        return list(whole) if listed else whole

    def embedded(self, condition: Condition) -> Condition:
        """The condition with its text arguments as values, for guidance that changes them."""
        own, null = self._of_kind(0), self._of_kind(NULL_KIND)
        floating = [
            p
            for p, v in own.items()
            if isinstance(v, Tensor) and v.is_floating_point() and v.ndim and len(v) == self.pattern.n
            if p != (self.call.sample,) and p not in self._controlled and not same(v, null.get(p))
            if not any(isinstance(part, int) or "mask" in part or "ids" in part for part in p)
        ]
        kinds = self._kinds(condition)
        sources = {kind: self._of_kind(kind) for kind in {0, NULL_KIND, *kinds}}
        if any(p not in of or of[p].shape != own[p].shape for p in floating for of in sources.values()):
            floating = []
        samples = self._samples_of(condition)
        more = {
            value_name(path): torch.cat(
                [sources[kind][path][sample : sample + 1] for sample, kind in zip(samples, kinds, strict=True)]
            )
            for path in floating
        }
        kept = dict.fromkeys(more, condition.keep["prompt"])  # those that it has may be changed already
        return replace(condition, values={**more, **condition.values}, keep={**kept, **condition.keep})

    def _keep(self, raw: Tensor, condition: Condition) -> None:
        """What the output holds beside the prediction (a variance): that of the samples' own branch."""
        samples, region = self._samples_of(condition), self.pattern.output
        mine = [row for row, own in enumerate(self._own_rows(condition, samples)) if own]
        if len(mine) == self.pattern.n:
            self.own = raw[mine]
        if region is None or region.dim is None:
            return
        mine = mine or list(range(condition.n))
        if self._outputs is None:
            self._outputs = raw.new_zeros(self.pattern.n, *raw.shape[1:])
        places = torch.tensor([samples[row] for row in mine], device=raw.device)
        self._outputs = self._outputs.index_copy(0, places, raw[mine])

    def _own_rows(self, condition: Condition, samples: Sequence[int]) -> list[bool]:
        """Which rows are under the samples' own condition, and not perturbed."""
        own = torch.tensor([kind == 0 for kind in self._kinds(condition)])
        if "label" in condition.values:
            own &= condition.keep["label"].cpu()
            own &= condition.values["label"].cpu() == self._flat[(LABELS,)].cpu()[list(samples)]
        for mask in condition.perturb.values():
            own &= ~mask.cpu()
        return list(own.tolist())


def rest_of(total: Any, part: Any, weight: float) -> Any:
    """What ``total`` is the sum of and ``part``, at weights of 1 - ``weight`` and ``weight``; lists are of samples."""
    if isinstance(total, list):
        return [rest_of(t, p, weight) for t, p in zip(total, part, strict=True)]
    return ((total.double() - weight * part.double()) / (1 - weight)).to(total)


def value_name(path: Path) -> str:
    """Of an argument, in a condition."""
    return ".".join(map(str, path))
