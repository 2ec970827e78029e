"""How well images fit their prompts: the cosine of CLIP's embeddings of both (Hessel et al. 2021, 2104.08718)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.data.tables import FILE_COLUMNS, read_rows
from fairlead.diffusers.pretrained import library, pretrained, quiet, weight_hash
from fairlead.measure.estimate import Estimate, mean_estimate
from fairlead.measure.extractors import Extractor

PROMPT = ("prompt", "text", "caption")


@dataclass(frozen=True)
class TextScore:
    """The cosine itself: neither clipped at 0 nor multiplied by 2.5 or 100.

    Attributes:
        cosine: mean over images of the cosine with their own prompt.
        others: mean over images of the cosine with the prompts of other images; the same where all prompts are equal.
        truncated: prompts that are longer than the network reads.
        name: of the text network with a hash of its weights, for protocols.
        prompts: a hash of the file's pairs, for protocols.
    """

    cosine: Estimate
    others: Estimate | None
    truncated: int
    name: str
    prompts: str


def read_prompts(path: Path, files: Sequence[str]) -> list[str]:
    """The prompt of each of ``files``, from a file of JSON lines, CSV or parquet with a column of file names and one of
    prompts.

    Raises:
        UsageError: if the file cannot be read, has no such columns, or no prompt for one of ``files``.
    """
    if not files:
        raise UsageError(f"prompts {path}: FAKE is a data set, whose images have no file names; give a folder")
    found: dict[str, str] = {}
    for number, (_, row) in enumerate(read_rows(path, "prompts"), 1):
        keys = set(row) if isinstance(row, Mapping) else set()
        name = next((row[key] for key in FILE_COLUMNS if key in keys), None)
        prompt = next((row[key] for key in PROMPT if key in keys), None)
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise UsageError(
                f"prompts {path}, entry {number}: expected a file name ({', '.join(FILE_COLUMNS)}) and a prompt "
                f"({', '.join(PROMPT)}), got {', '.join(sorted(map(str, keys))) or 'neither'}"
            )
        if found.setdefault(name, prompt) != prompt:
            raise UsageError(f"prompts {path}, entry {number}: {name} has another prompt already; expected one each")
    lacking = [name for name in files if name not in found]
    if lacking:
        raise UsageError(f"prompts {path}: no prompt for {lacking[0]} ({len(lacking)} of {len(files)} images lack one)")
    return [found[name] for name in files]


def text_score(embeddings: Tensor, prompts: Sequence[str], clip: Extractor) -> TextScore:
    """Of image ``embeddings`` [n, d] from ``clip`` and a prompt each.

    The error of ``cosine`` is sd / sqrt(n) over the images.

    Raises:
        UsageError: if ``clip`` is no CLIP or its folder lacks the text network or its tokens, or lengths differ.
    """
    if clip.kind != "clip" or clip.source is None:
        raise UsageError(f"prompts: expected the features of clip, got {clip.kind!r}")
    if len(prompts) != len(embeddings):
        raise UsageError(f"prompts: {len(embeddings)} images, {len(prompts)} prompts; expected one each")
    different = sorted(set(prompts))
    text, truncated, name = _text_embeddings(different, clip)
    index = torch.tensor([different.index(prompt) for prompt in prompts])
    cosines = F.normalize(embeddings.to(torch.float64), dim=1) @ F.normalize(text.to(torch.float64), dim=1).T
    own = cosines.gather(1, index[:, None])[:, 0]
    others = None
    if len(different) > 1:
        counts = index.bincount(minlength=len(different)).to(torch.float64)
        total = cosines @ counts - own * counts[index]
        others = mean_estimate(total / (len(prompts) - counts[index]))
    digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:16]
    return TextScore(mean_estimate(own), others, truncated, name, digest)


def _text_embeddings(prompts: Sequence[str], clip: Extractor) -> tuple[Tensor, int, str]:
    """([n, d], how many prompts were cut, name of the network)."""
    assert clip.source is not None
    what = "prompts"
    network = pretrained(clip.source, "CLIPTextModelWithProjection", what)
    try:
        with quiet():
            tokens = library(what).AutoTokenizer.from_pretrained(
                clip.source, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # json, the library's own checks
        raise UsageError(
            f"{what}: the tokens of {clip.source} cannot be loaded ({' '.join(str(error).split())[:160]})"
        ) from error
    limit = int(network.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
    with quiet():
        truncated = sum(len(ids) > limit for ids in tokens(list(prompts))["input_ids"])
    parts = []
    for start in range(0, len(prompts), 64):
        batch = tokens(
            list(prompts[start : start + 64]), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.no_grad():
            parts.append(network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).text_embeds)
    return torch.cat(parts), truncated, f"clip-text@{weight_hash(network)}"
