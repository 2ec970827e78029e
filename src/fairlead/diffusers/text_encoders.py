"""Pretrained text encoders through `transformers`: CLIP, T5, and any sentence encoder with token states.

Masks are those of the tokenizer. The pooled vector is the state at the true end token for CLIP and T5 (the first one
after the start, not the last position of a padded batch), the mean over real tokens for sentence encoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from fairlead.core.errors import UsageError, unknown
from fairlead.core.places import home_expanded
from fairlead.core.typed import Between
from fairlead.data.text import word_list
from fairlead.diffusers.pretrained import fetched, library, pretrained, quiet, weight_hash
from fairlead.nets.packed_text import pack, pooled_at_end

Long = Literal["refuse", "cut"]
_BATCH = 64
SD3_ZEROS = 256
"""Tokens that ``StableDiffusion3Pipeline`` joins to those of its CLIPs where it has no T5 (``max_sequence_length``)."""
_DEFAULT_LENGTH = 512
"""Tokens of an encoder that names no limit, such as T5."""


class Settings(TypedDict, total=False):
    """Of a pretrained encoder, see :class:`PretrainedText`."""

    tokens: Annotated[int, Between(3)] | None
    windows: Annotated[int, Between(1)]
    long: Long
    weights: str | None
    masked: bool


@dataclass(frozen=True)
class PretrainedText:
    """A pretrained encoder. Its source is loaded when it is made, so that what is wrong with it is known at once.

    Attributes:
        name: of its kind in the registry.
        source: a folder, or a hub name; or the folder of a pipeline, whose first text encoder and tokenizer are taken.
        network: the class of `transformers`.
        pool: "end": the state at the end token; "mean": over real tokens.
        tokens: read of one window; None: all that the encoder can.
        windows: how many stretches of ``tokens`` a prompt may take; their states are joined, the pooled vector is the
            first one's.
        long: what to do with a prompt that is still longer. "refuse" names the words that would be lost; "cut" warns
            of them and goes on.
        weights: the hash that the weights must have; None: any.
        masked: whether padding is masked. Stable Diffusion's networks read its states too, unmasked.
    """

    name: str
    source: str
    network: str
    pool: Literal["end", "mean"]
    tokens: int | None = None
    windows: int = 1
    long: Long = "refuse"
    weights: str | None = None
    masked: bool = True

    def __post_init__(self) -> None:
        if self.long not in ("refuse", "cut"):
            raise unknown("treatment of long prompts", self.long, ("refuse", "cut"))
        for what, value, least in (("tokens", self.tokens, 3), ("windows", self.windows, 1)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise UsageError(f"{self._what}: expected {what} of at least {least}, got {value!r}")
        if not self.masked and self.windows > 1:
            raise UsageError(f"{self._what}: {self.windows} windows hold padding to mask; read one, or masked")
        found = self._hash
        if self.weights not in (None, found):
            raise UsageError(
                f"{self._what} has other weights ({found}) than in training ({self.weights}); give the folder of those"
            )
        if self.pool == "end" and self._end is None:
            raise UsageError(f"{self._what}: its tokenizer has no end token to pool at; use sentence:{self.source}")
        if self.window > self._limit:
            raise UsageError(
                f"{self._what} reads {self._limit} tokens, got tokens={self.tokens}; pass fewer, or more windows"
            )

    @property
    def _what(self) -> str:
        return f"text encoder {self.name}:{self.source}"

    @cached_property
    def _folders(self) -> tuple[Path, Path]:
        """Of the network and of the tokenizer."""
        pipeline = home_expanded(self.source)
        if (pipeline / "text_encoder" / "config.json").is_file():
            return pipeline / "text_encoder", pipeline / "tokenizer"
        folder = fetched(self.source, self._what)
        return folder, folder

    @cached_property
    def _model(self) -> nn.Module:
        return pretrained(self._folders[0], self.network, self._what)

    @cached_property
    def _hash(self) -> str:
        return weight_hash(self._model)

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            with quiet():
                return library(self._what).AutoTokenizer.from_pretrained(
                    self._folders[1], local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # json, sentencepiece, the library's own checks
            reason = " ".join(str(error).split())[:160]
            raise UsageError(f"{self._what}: its tokenizer cannot be loaded ({reason})") from error

    @property
    def _end(self) -> int | None:
        found: int | None = self._tokenizer.eos_token_id
        return found

    @property
    def _limit(self) -> int:
        of_network = getattr(self._model.config, "max_position_embeddings", None) or _DEFAULT_LENGTH
        return min(int(of_network), int(self._tokenizer.model_max_length))

    @property
    def window(self) -> int:
        """Tokens of one window, its start and end tokens included."""
        return self.tokens or self._limit

    @property
    def length(self) -> int:
        return self.window * self.windows

    @property
    def width(self) -> int:
        config: Any = self._model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    def parts(self) -> tuple[nn.Module, Any]:
        """The network and the tokenizer."""
        return self._model, self._tokenizer

    def config(self) -> dict[str, Any]:
        found = {
            "name": self.name, "source": self.source, "tokens": self.window, "windows": self.windows,
            "long": self.long, "weights": self._hash,
        }  # fmt: skip
        return found if self.masked else {**found, "masked": False}

    def net(self) -> dict[str, Any]:
        return {"width": self.width, "length": self.length}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        parts = [self._encode(prompts[at : at + _BATCH]) for at in range(0, len(prompts), _BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, 1 + self.length, self.width + 1)

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        n, windows = len(prompts), self.windows
        stretches = [self._stretches(prompt) for prompt in prompts]
        # a window that a prompt does not need is encoded as the empty string and masked out
        filled = [s + [""] * (windows - len(s)) for s in stretches]
        used = torch.tensor([[i < len(s) for i in range(windows)] for s in stretches])
        with quiet():
            batch = self._tokenizer(
                [text for s in filled for text in s], padding="max_length", max_length=self.window, truncation=True,
                return_tensors="pt",
            )  # fmt: skip
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        attended = {"attention_mask": real.long()} if self.masked else {}
        with torch.no_grad():
            states, pooled = self._read(ids, real, attended)
        real = (real.reshape(n, windows, -1) & used[..., None]).flatten(1) | (not self.masked)
        return pack(states.reshape(n, self.length, -1), real, pooled.reshape(n, windows, -1)[:, 0])

    def _read(self, ids: Tensor, real: Tensor, attended: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """States [n, length, width] of token ids [n, length], pooled vectors [n, width]."""
        states = self._model(input_ids=ids, **attended).last_hidden_state
        if self.pool == "mean":
            mask = real[..., None].to(states.dtype)
            return states, (states * mask).sum(1) / mask.sum(1)
        assert self._end is not None
        try:
            return states, pooled_at_end(states, ids, self._end, self._tokenizer.bos_token_id)
        except ValueError as error:
            raise UsageError(
                f"{self._what}: {error}, so there is no place to pool at; use sentence:{self.source}"
            ) from error

    def _stretches(self, prompt: str) -> list[str]:
        """The prompt in at most ``windows`` pieces that fit, cut between words.

        Raises:
            UsageError: if words are left over and may not be cut.
        """
        words = prompt.split()
        found: list[str] = []
        while words or not found:
            if len(found) == self.windows:
                lost = f"{word_list(words)} of the prompt {prompt[:40]!r}... would be lost"
                if self.long == "refuse":
                    raise UsageError(
                        f"{self._what} reads {self.windows} x {self.window} tokens: {lost}; shorten it, or train "
                        "with more windows (--text-windows) or long='cut' (--text-long cut)"
                    )
                warnings.warn(f"{self._what}: {lost}", stacklevel=2)
                break
            count = self._fitting(words)
            found.append(" ".join(words[:count]))
            words = words[count:]
        return found

    def _fitting(self, words: Sequence[str]) -> int:
        """How many of the first words fit into a window.

        Raises:
            UsageError: if the first alone does not.
        """
        low, high = 0, min(len(words), self.window)  # a word is a token or more
        while low < high:
            middle = (low + high + 1) // 2
            with quiet():
                fits = len(self._tokenizer(" ".join(words[:middle]))["input_ids"]) <= self.window
            low, high = (middle, high) if fits else (low, middle - 1)
        if low == 0 and words:
            raise UsageError(f"{self._what}: the word {words[0][:40]!r}... alone is longer than {self.window} tokens")
        return low


class SD3Text(PretrainedText):
    """What ``StableDiffusion3Pipeline`` makes of a prompt with one CLIP in the place of both of its own and no T5: the
    states before the last layer twice side by side, and twice the projection of the end token's last state. The
    network gets the zeros that stand where a T5's states would beside, see ``diffusers.networks``.

    Args:
        source: a ``CLIPTextModelWithProjection`` whose projection is as wide as its states.
        settings: of :class:`PretrainedText`.
    """

    def __init__(self, source: str, **settings: Unpack[Settings]) -> None:
        kind = "CLIPTextModelWithProjection"
        settings.setdefault("masked", False)
        super().__init__("sd3", source, kind, "end", **settings)
        config: Any = self._model.config
        if config.projection_dim != config.hidden_size:
            raise UsageError(
                f"{self._what}: expected a projection as wide as the states, got {config.projection_dim} and "
                f"{config.hidden_size}"
            )

    @property
    def width(self) -> int:
        return 2 * super().width

    def net(self) -> dict[str, Any]:
        return {**super().net(), "zeros": SD3_ZEROS}

    def _read(self, ids: Tensor, real: Tensor, attended: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        found = self._model(input_ids=ids, output_hidden_states=True)
        states, pooled = found.hidden_states[-2], found.text_embeds
        return torch.cat([states, states], dim=-1), torch.cat([pooled, pooled], dim=-1)


def clip(source: str, **settings: Unpack[Settings]) -> PretrainedText:
    """CLIP's text network (2103.00020), 77 tokens; states after the last norm, pooled at the end token."""
    return PretrainedText("clip", source, "CLIPTextModel", "end", **settings)


def t5(source: str, **settings: Unpack[Settings]) -> PretrainedText:
    """The encoder of a T5 (1910.10683), pooled at its end token."""
    return PretrainedText("t5", source, "T5EncoderModel", "end", **settings)


def sentence(source: str, **settings: Unpack[Settings]) -> PretrainedText:
    """Any sentence encoder with token states, pooled by the mean over real tokens (1908.10084)."""
    return PretrainedText("sentence", source, "AutoModel", "mean", **settings)
