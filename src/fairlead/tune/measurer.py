"""Measures a model at any setting of a template, and keeps what it measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.places import check_folder
from fairlead.data.tensor_cache import store_tensors, stored_tensors
from fairlead.guide.expression import to_guidance
from fairlead.measure.score import Samples
from fairlead.measure.scoring import Scoring
from fairlead.models.model import Model
from fairlead.models.resources import identities
from fairlead.sample.run import Plan
from fairlead.tune.measurements import Batch, Values
from fairlead.tune.sweep_run import Shared
from fairlead.tune.targets import targets_for
from fairlead.tune.template import Template


class Measurer:
    """A ``Measure`` (see ``objective``) of a model: seed i has the same noise and the same condition at every setting.

    Batches of ``shared.batch_size`` are stored as they are finished and read when they are asked for again, so that a
    search that was killed repeats itself from its files.

    Args:
        shared: ``n`` is the most images of one setting, ``seed`` the first of them.
        folder: where batches are kept; for this model, sampler and protocol only.
        on_batch: called with the number of images of each batch, sampled or read.
    """

    def __init__(
        self,
        model: Model,
        evaluator: Scoring,
        template: Template,
        shared: Shared,
        sampler: str,
        steps: int,
        folder: Path,
        on_batch: Callable[[int], object] = lambda images: None,
    ) -> None:
        check_folder(folder, "choose another folder")
        self.model, self.evaluator, self.template, self.shared = model, evaluator, template, shared
        self.sampler, self.steps, self.folder, self.on_batch = sampler, steps, folder, on_batch
        self.sampled = 0
        """Images that were sampled rather than read."""
        self._asked = targets_for(model, evaluator, shared.n)
        self._resources: dict[str, Any] = {}
        for knobs in ([k.low for k in template.knobs.values()], [k.high for k in template.knobs.values()]):
            plan = self.plan(template.filled(tuple(knobs)), range(shared.seed, shared.seed + 1))
        self._named = identities(plan.resources)

    def plan(self, guidance: str, seeds: range) -> Plan:
        """What is sampled for these seeds.

        Raises:
            UsageError: for what cannot be sampled.
        """
        wanted = [resource.name for resource in to_guidance(guidance).resources()]
        first, last = seeds.start - self.shared.seed, seeds.stop - self.shared.seed
        plan = Plan.of(
            self.model,
            self._asked.conds[first:last],
            guidance,
            self.shared.sampling(self.sampler, self.steps),
            seeds=seeds,
            resources={name: self._resources[name] for name in wanted if name in self._resources},
        )
        self._resources.update(plan.resources)
        return plan

    def __call__(self, setting: Values, seeds: range) -> Batch:
        guidance, size = self.template.filled(setting), self.shared.batch_size
        parts = []
        for start in range(seeds.start, seeds.stop, size):
            part = range(start, min(start + size, seeds.stop))
            parts.append(self._batch(guidance, part))
            self.on_batch(len(part))
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        samples = Samples.from_tensors(self.evaluator.moments, found)
        return Batch(samples.features, samples.values, float(found["rows"].sum()), samples.labels)

    def _batch(self, guidance: str, seeds: range) -> dict[str, Tensor]:
        key = hashlib.sha256(
            json.dumps([guidance, seeds.start, seeds.stop, self._named], default=str).encode()
        ).hexdigest()
        file = self.folder / f"{key[:16]}.safetensors"
        stored = stored_tensors(file, key)
        if stored is not None:
            return stored
        run = self.plan(guidance, seeds).run()
        if run.images is None:
            raise UsageError("tune measures images, and this model's samples are not images")
        asked = self._asked.part(slice(seeds.start - self.shared.seed, seeds.stop - self.shared.seed))
        samples = self.evaluator.samples(
            run.images, asked.labels, run.decoded, asked=asked.attributes, conds=asked.conds
        )
        found = {**samples.tensors(), "rows": torch.full((len(seeds),), run.cost.rows / len(seeds))}
        self.sampled += len(seeds)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            store_tensors(file, key, found)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"cannot write {file}: {error}; what was measured before is kept") from error
        return found
