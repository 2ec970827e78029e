"""``fairlead COMMAND --help``: options in groups, with the defaults that the recipe makes of them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from typing_extensions import Doc

from fairlead.core.errors import UsageError, unknown
from fairlead.nets.build import AUTOENCODER_PRESETS, CLASSIFIER_PRESETS, PRESETS
from fairlead.train.config import AUTOENCODER_RECIPES, CLASSIFIER_RECIPES, RECIPES, Recipe, TrainConfig
from fairlead.train.denoiser_options import DenoiserOptions
from fairlead.train.options import AutoencoderOptions, ClassifierOptions, TrainOptions

MAIN = "options"
"""The group of all that is in no other."""
TRAINING = {
    "data": "size fit limit image_column label_column caption_column skip_broken flip",
    "network": "net net_config channels conditioning latents latent internal",
    "conditions": "conditions image text text_read text_sketch text_null text_tokens text_windows text_long "
    "drop drops drop_all",
    "optimisation": "batch_size accumulate objective guided weighting schedule lr warmup optimizer ema kl precision "
    "compile",
    "saving": "checkpoint_every checkpoint_minutes keep snapshot_every validate_every preview_every tracker",
    "adapters": "pipeline lora",
}
"""Groups of the trainings' options, each on a screen of its own."""
OTHERS = {
    "sampling": "sampler steps grid seed seeds batch_size precision compile weights device",
    "measuring": "by_class data prompts features clip judge metrics k resize",
}
"""Groups of the other commands' options."""

NAMES_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "epochs": ("steps: epochs times images, divided by --batch-size",),
    "num-train-epochs": ("steps: epochs times images, divided by --batch-size",),
    "max-train-steps": ("steps",), "iterations": ("steps",), "num-steps": ("steps",),
    "num-inference-steps": ("steps",), "num-sampling-steps": ("steps",),
    "image-size": ("size",), "resolution": ("size",), "img-size": ("size",), "height": ("size: height x width",),
    "learning-rate": ("lr",), "lr-warmup-steps": ("warmup",), "train-batch-size": ("batch-size",),
    "bs": ("batch-size",),
    "output-dir": ("out",), "outdir": ("out",), "output": ("out",), "save-dir": ("out",),
    "dataset": ("data",), "data-dir": ("data",), "train-data-dir": ("data",), "dataset-name": ("data",),
    "mixed-precision": ("precision",), "dtype": ("precision",), "resume-from-checkpoint": ("resume",),
    "ema-decay": ("ema",), "checkpointing-steps": ("checkpoint-every",), "validation-steps": ("validate-every",),
    "checkpoints-total-limit": ("keep",), "gradient-accumulation-steps": ("accumulate",), "init-from": ("init",),
    "report-to": ("tracker",),
    "logger": ("tracker",), "random-flip": ("flip",), "center-crop": ("fit: centre",),
    "cond-drop-prob": ("drop",), "uncond-prob": ("drop",), "dropout": ("drop",), "prediction-type": ("objective",),
    "beta-schedule": ("schedule",), "rank": ("lora",),
    "guidance-scale": ('guidance, as in "cfg(4)"',), "cfg-scale": ('guidance, as in "cfg(4)"',),
    "cfg": ('guidance, as in "cfg(4)"',), "scale": ("scales", 'guidance, as in "cfg(4)"'),
    "negative-prompt": ("guidance, as in 'cfg(4, negative=\"...\")'",), "prompt": ("cond",), "class": ("cond",),
    "classes": ("cond",), "label": ("cond",), "num-images": ("n",), "num-samples": ("n",), "n-samples": ("n",),
    "scheduler": ("sampler",), "eta": ("sampler, as in ddim(eta=1)",), "output-file": ("out",),
}  # fmt: skip
"""What options are called in other tools, and the option here (the first that the command has), with what to know."""


def first_paragraph(command: Any) -> str:
    """The first paragraph of a command's description, in one line."""
    return " ".join(inspect.cleandoc(command.__doc__ or "").split("\n\n")[0].split())


def check_names(name: str, command: Any, arguments: Sequence[str]) -> None:
    """Raise UsageError for an option that is called otherwise here, with its name."""
    own = {option.name.replace("_", "-") for option in fields(command)}
    for argument in arguments:
        given = argument.partition("=")[0].replace("_", "-")
        if given.startswith("--") and given[2:] not in own:
            for instead in NAMES_ELSEWHERE.get(given[2:], ()):
                if re.split("[:,]", instead)[0] in own:
                    raise UsageError(f"{given} is not an option of fairlead {name}; use --{instead}")


def asked_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments of a command hold ``--help``."""
    return any(argument in ("-h", "--help") for argument in arguments)


def print_help(name: str, command: Any, arguments: Sequence[str]) -> None:
    """Print the help of a command; for a training the main group, or the one named after ``--help``.

    Raises:
        UsageError: for a group that the command does not have.
    """
    training = issubclass(command, TrainOptions)
    groups = _groups(command, TRAINING if training else OTHERS)
    place = next(at for at, argument in enumerate(arguments) if argument in ("-h", "--help"))
    wanted = arguments[place + 1] if place + 1 < len(arguments) else ""
    if wanted and not wanted.startswith("-"):
        if wanted not in (*groups, "all"):
            raise unknown("group of options", wanted, (*groups, "all"))
        shown = groups if wanted == "all" else {wanted: groups[wanted]}
        more: list[str] = []
    else:
        shown = {MAIN: groups[MAIN]} if training else groups
        width = max(map(len, groups))
        more = [
            f"  --help {group:{width}}  {textwrap.shorten(', '.join(groups[group]), 88 - width, placeholder=' ...')}"
            for group in groups
            if group not in shown
        ]
    recipe = next((value for option, value in _pairs(arguments) if option == "--recipe"), None)
    about = inspect.cleandoc(command.__doc__ or "")
    if more:
        about += "\n\nMore options, and all of them with --help all:\n" + "\n".join(more)
    texts, hints = _texts(command), get_type_hints(command, include_extras=True)
    values = _of_recipe(command, recipe)
    boxes = {
        group: [_shown(option, hints, texts, values) for option in options.values()] for group, options in shown.items()
    }
    main = boxes.pop(MAIN, [])
    nested: Any = [
        (f"group_{group}", Annotated[make_dataclass(group, box, kw_only=True), tyro.conf.arg(name=group)], field())
        for group, box in boxes.items()
    ]
    whole = make_dataclass("Options", [*main, *nested], kw_only=True)
    tyro.cli(whole, prog=f"fairlead {name}", description=about, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))


def _groups(command: Any, table: Mapping[str, str]) -> dict[str, dict[str, Field[Any]]]:
    """The fields of a command by group; what no group names is in the first."""
    group_of = {name: group for group, names in table.items() for name in names.split()}
    found: dict[str, dict[str, Field[Any]]] = {group: {} for group in (MAIN, *table)}
    for option in fields(command):
        found[group_of.get(option.name, MAIN)][option.name] = option
    return {group: options for group, options in found.items() if options}


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Options with the value behind each, whether written with a space or with ``=``."""
    split = [part for argument in arguments for part in (argument.split("=", 1) if "=" in argument else [argument])]
    return list(pairwise(split))


def _texts(command: Any) -> dict[str, str]:
    """What stands below each field in the source of a class and its bases."""
    found: dict[str, str] = {}
    for kind in reversed(command.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for above, below in pairwise(body.body):
            text = below.value if isinstance(below, ast.Expr) else None
            if (
                isinstance(above, ast.AnnAssign)
                and isinstance(above.target, ast.Name)
                and isinstance(text, ast.Constant)
            ):
                found[above.target.id] = " ".join(str(text.value).split())
    return found


def _of_recipe(command: Any, name: str | None) -> dict[str, Any]:
    """What a training does where an option is not given, as far as the recipe decides it."""
    kinds: tuple[tuple[type, dict[str, Recipe], dict[str, Any]], ...] = (
        (DenoiserOptions, RECIPES, PRESETS),
        (ClassifierOptions, CLASSIFIER_RECIPES, CLASSIFIER_PRESETS),
        (AutoencoderOptions, AUTOENCODER_RECIPES, AUTOENCODER_PRESETS),
    )
    for kind, recipes, presets in kinds:
        if issubclass(command, kind):
            if name is not None and name not in recipes:
                raise unknown("recipe", name, recipes)
            recipe = recipes[name or "digits"]
            found = {option.name: option.default for option in fields(TrainConfig) if option.default is not MISSING}
            found |= recipe.train
            found |= {"data": recipe.data, "net": recipe.net, "schedule": "vp_cosine"}
            if kind is DenoiserOptions:
                found |= {"conditions": " ".join(recipe.conditions)}
            return found | {key: value for key, value in presets.get(recipe.net, {}).items() if key == "channels"}
    return {}


def _shown(option: Field[Any], hints: Mapping[str, Any], texts: Mapping[str, str], values: Mapping[str, Any]) -> Any:
    """A field for the parser: without "None", with its text, and with the default that holds."""
    name = option.name
    hint: Any = hints[name]
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    default: Any = option.default_factory() if option.default_factory is not MISSING else option.default
    value = values.get(name) if default in (None, (), {}) else default
    said = "(required)" if default is MISSING else "" if value in (None, "", (), {}) else f"(default: {_plain(value)})"
    text = None if any(isinstance(extra, Doc) or getattr(extra, "help", None) for extra in extras) else texts.get(name)
    metavar = _metavar(hint) if get_origin(hint) in (Union, types.UnionType) else None
    metavar = name.upper() if tyro.conf.Positional in extras else metavar
    extras = (*extras, tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=said))
    filler: Any = field() if default is MISSING else field(default_factory=lambda: default)
    return name, Annotated[(hint, *extras)], filler


def _metavar(hint: Any) -> str:
    """The types of an option that may be left out, without None."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    values = ["{" + ",".join(get_args(kind)) + "}" if get_origin(kind) is Literal else "" for kind in kinds]
    names = {bool: "True|False", tuple: "FLOAT [FLOAT ...]"}
    return "|".join(
        value or names.get(get_origin(kind) or kind, getattr(kind, "__name__", "").upper())
        for kind, value in zip(kinds, values, strict=True)
    )


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f'"{part}"' if " " in str(part) or "{" in str(part) else str(part) for part in value)
    return str(value)
