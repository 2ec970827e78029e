"""A vocabulary of whole words, for the text encoder that a network trains along with itself.

What a word is says a rule, which the checkpoint names:

    marks    runs of letters with their marks (vowel signs, tones, accents) and digits, with what belongs to them (C++,
             C#, .net, -5, 3.5, a-); other symbols (%, &, emoji) are words of their own. Punctuation is not read.
    letters  runs of letters and digits; all else is not read, so that C++ is C# and, without vowel signs, दिन is दान.
             The rule of checkpoints that name none.

Case makes no difference, nor does the Unicode form. Ids: 0 pads, 1 is the end token, which every prompt has, then the
words in the order of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args
from unicodedata import category, normalize

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.data.names import folded
from fairlead.data.text import word_list

Rule = Literal["letters", "marks"]
PAD, END, FIRST = 0, 1, 2
MOST = 20_000
"""Words a vocabulary may have; a larger one wants a pretrained encoder."""
WIDTH, DEPTH = 128, 2


@dataclass(frozen=True)
class Words:
    """Prompts -> ids int64 [n, length].

    Attributes:
        vocabulary: the known words, as :func:`split_words` gives them by ``rule``.
        length: tokens of the longest prompt, its end token included.
        read: steps in which the network's encoder learns to read the captions before training, to be left as it is
            then (see :mod:`fairlead.train.reading`); 0: it trains along from the start.
        sketch: steps in which, after that, a part of the network learns what images of a caption look like on average,
            to be joined to the noisy image; 0: there is none.
        rule: what a word is, see the top of this file.
    """

    vocabulary: tuple[str, ...]
    length: int
    read: int = 0
    sketch: int = 0
    rule: Rule = "letters"

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))  # JSON has only lists
        if self.rule not in get_args(Rule):
            raise unknown("rule of words", self.rule, get_args(Rule))
        for what, steps in (("reading", self.read), ("sketching", self.sketch)):
            if not isinstance(steps, int) or steps < 0:
                raise UsageError(f"text encoder 'words': expected 0 or more steps of {what}, got {steps!r}")
        if self.sketch and not self.read:
            raise UsageError(
                "text encoder 'words': a sketch needs an encoder that has learned to read, got 0 steps of reading; "
                "give it some (--text-read), or no sketch (--text-sketch 0)"
            )
        if not self.vocabulary or len(self.vocabulary) > MOST:
            raise UsageError(
                f"text encoder 'words': expected captions of 1 to {MOST:,} different words, got "
                f"{len(self.vocabulary):,}; take a pretrained encoder, such as sentence:FOLDER"
            )

    @classmethod
    def of(cls, captions: Sequence[str], read: int = 0, sketch: int = 0, rule: Rule = "marks") -> Words:
        """The words of these captions, and room for the longest of them."""
        split = [split_words(caption, rule) for caption in captions]
        words = tuple(sorted({word for words in split for word in words}))
        return cls(words, 1 + max(map(len, split), default=0), read, sketch, rule)

    @property
    def width(self) -> int:
        return WIDTH

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: FIRST + i for i, word in enumerate(self.vocabulary)}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        ids = torch.full((len(prompts), self.length), PAD)
        for row, prompt in enumerate(prompts):
            words = split_words(prompt, self.rule)
            for word in words:
                if word not in self._index:
                    raise unknown(f"word in the prompt {shortened(prompt)}:", word, self.vocabulary)
            if len(words) >= self.length:
                lost = words[self.length - 1 :]
                raise UsageError(
                    f"prompt {shortened(prompt)} has {len(words)} words, this text encoder reads {self.length - 1}: "
                    f"{word_list(lost)} would be lost; shorten it"
                )
            ids[row, : len(words) + 1] = torch.tensor([*(self._index[word] for word in words), END])
        return ids

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts of which nothing would be read; the empty one means no text.

        Raises:
            UsageError: for a prompt of punctuation and symbols alone.
        """
        for prompt in prompts:
            if prompt.strip() and not split_words(prompt, self.rule):
                raise UsageError(
                    f"prompt {shortened(prompt)} has no word that could be read; give words such as "
                    f"{word_list(self.vocabulary, 3)}, or an empty prompt for no text"
                )

    def config(self) -> dict[str, Any]:
        steps = {name: steps for name, steps in (("read", self.read), ("sketch", self.sketch)) if steps}
        rule = {} if self.rule == "letters" else {"rule": self.rule}
        return {"name": "words", "vocabulary": list(self.vocabulary), "length": self.length, **steps, **rule}

    def net(self) -> dict[str, Any]:
        net = {"width": WIDTH, "length": self.length, "vocabulary": FIRST + len(self.vocabulary), "depth": DEPTH}
        return net | ({"frozen": True} if self.read else {}) | ({"sketch": True} if self.sketch else {})


def split_words(text: str, rule: Rule = "marks") -> list[str]:
    """The words of a text in order, in lower case, their marks joined to their letters (NFC)."""
    if rule == "letters":
        return re.findall(r"[^\W_]+(?:'[^\W_]+)*", normalize("NFC", text.casefold()))
    text = folded(text.translate(_VISIBLE))
    return [text[found.start() : found.end()] for found in _WORD.finditer(text.translate(_KINDS))]


_ONE_FORM = {0x2019: ord("'"), 0x02BC: ord("'"), 0x2212: ord("-")}


class _Visible(dict[int, int | None]):
    """What is not seen is no part of a word: soft hyphens, marks of direction; joiners of letters and emoji are.
    An apostrophe has one form, and so has a minus."""

    def __missing__(self, code: int) -> int | None:
        unseen = category(chr(code)) == "Cf" and chr(code) not in "\u200b\u200c\u200d"
        self[code] = None if unseen else _ONE_FORM.get(code, code)
        return self[code]


class _Kinds(dict[int, str]):
    """Of every character one that says what it is: l letter, n digit, m mark, j joiner, + plus or hash, s symbol,
    blank anything that is not read; apostrophe, full stop, minus, slash and colon stand for themselves."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = category(character)
        if character in "'./:-":
            found = character
        elif character in "\u200c\u200d":
            found = "j"
        elif character in "+#":
            found = "+"
        elif character in "%&@*" or (kind[0] == "S" and (kind != "Sk" or code > 0xFFFF)):
            found = "s"
        else:
            found = "n" if kind == "Nd" else {"L": "l", "N": "l", "M": "m"}.get(kind[0], " ")
        self[code] = found
        return found


_VISIBLE, _KINDS = _Visible(), _Kinds()
_WORD = re.compile(
    r"""
      (?<![^ ]) l{1,2} m* - (?![^ ])                        # a-, o-, ab-: a grade, a blood type
    | (?: (?<![^ ]) (?: -?\.(?=n) | \.(?=l) | -(?=n) ) )?    # .net, -5, .5
      [lnm][lnmj]* (?: '[lnm][lnmj]* | (?<=n)[./:][n][lnmj]* )* [+]*
    | [+]                                                    # alone
    | s m* (?: j s m* )*                                     # an emoji may be several in one
    """,
    re.VERBOSE,
)
