"""The catalogue on pipelines: every method runs, or is refused with its reason; what diffusers has too is an oracle."""

from __future__ import annotations

import inspect
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.guide.branch import COND, NULL
from tests.guide.examples import simple
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, FLOW_SCHEDULERS, SCHEDULERS, apart, picture, ratios, run

STEPS, N = 4, 2
CLOSE = 1e-4


def map_of(edge: int) -> str:
    """A guidance with a scale for each of edge x edge latents."""
    return f"cfg(pixels({[[(3 * i + j) % 7 - 1 for j in range(edge)] for i in range(edge)]}))"


ON: dict[str, str] = {  # name -> an example for prompts
    "cfg": 'cfg([3, -1]) + cfg(2, negative="blurry")',
    "compose": 'compose({"a cat": 4, "blue dog": -2})',
    "classifier": 'classifier(2, "clf")',
    "energy": "energy(brightness(0.7), 3) + energy(color(1, 0, 0), 2, through=False, draws=2, spread=0.5)",
    "apg": "apg(cfg(4), eta=0.3, norm=2, momentum=-0.5)",
    "bands": "bands([2, 4])",
    "cfgpp": "cfgpp(0.6)",
    "mambo": "mambo(cfg(4))",
    "perp_neg": 'perp_neg(4, "blurry")',
    "tcfg": "tcfg(cfg(4))",
    "zero_star": "zero_star(cfg(4), zero=0.3)",
    "auto": 'auto(2, weak="weak")',
    "pag": "cfg(3) + pag(2)",
    "seg": "seg(3, blur=1) + seg(1)",
    "slg": "slg(2)",
    "icg": "icg(3)",
    "cads": "cfg(4) + cads(0.3)",
    "adaptive": "adaptive(cfg(4), 0.5)",
    "cached": "cached(cfg(4))",
    "sag": "sag(0.7)",
    "s2": "s2(0.5)",
    "fbg": "fbg(0.8)",
    "nag": 'nag([5, 3], negative="blurry") + cfg(2, negative="blurry")',
    "clip": "cfg(4) | clip()",
    "threshold": "cfg(4) | threshold(0.9)",
    "rescale": "cfg(4) | rescale(0.7)",
    "ramp": "cfg(ramp(1, 7))",
    "clamp": "cfg(clamp(ramp(1, 7), low=2))",
    "pixels": map_of(8),
    "region": "cfg(region(5, 1, [0, 0, 0.5, 0.5]))",
}
ON |= {name: simple(kind, name) for kind in ("term", "finisher", "scale") for name in names(kind) if name not in ON}
OWN = {
    "internal": "no head in its middle",
    "distilled": "does not take a scale",
    "fkc": "an attached pipeline has none",
}
LATENTS = {"clip": "no fixed range", "threshold": "no fixed range", **OWN}
PROMPTED = {"icg": "draws random classes", "classifier": "reads class labels", **LATENTS}
NO_SOFTMAX = dict.fromkeys(("pag", "seg", "sag"), "no attention layers")
UNCONDITIONAL = [name for name in ON if name not in ("auto", "energy", "seg", "sag", "zero_star")]
REFUSED: dict[str, dict[str, str]] = {  # family -> name -> the reason
    "sd": PROMPTED,
    "sdxl": PROMPTED,
    "sd3": PROMPTED,
    "flux": PROMPTED,
    "pixart alpha": {"cfgpp": "cannot use", **PROMPTED},
    "sana": {**NO_SOFTMAX, **PROMPTED},
    "dit": {"cads": "adds noise to embeddings", "nag": "reads no text", **LATENTS},
    "unconditional": {
        **dict.fromkeys(UNCONDITIONAL, "none was given|unconditional|replaces"),
        **dict.fromkeys(("slg", "s2"), "no block layers"),
        **OWN,
    },
}
WORDS = {'"a cat"': "1", '"blue dog"': "2", '"blurry"': "5"}


class LatentClassifier:
    """An object that can steer: log p(class | x_t, t), closed form."""

    schedule, shape, classes = None, (4, 8, 8), tuple(map(str, range(1000)))

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, 1000, dtype=x_t.dtype)
        return (-((x_t.mean((1, 2, 3))[:, None] - place) ** 2)).log_softmax(1)


@cache
def pipeline(family: str, use: str = "") -> Any:
    """One for all tests of the catalogue, and another for each use."""
    return made.unconditional() if family == "unconditional" else FAMILIES[family].make()


def guided(family: str, text: str) -> Tensor:
    """A run of the family under a guidance in our grammar for prompts."""
    arguments = {"batch_size": N, "output_type": "pt"} if family == "unconditional" else FAMILIES[family].arguments(N)
    pipe = pipeline(family)
    if not hasattr(pipe, "text_encoder"):
        for word, index in WORDS.items():
            text = text.replace(word, index)
    arguments.pop("negative_prompt", None)
    negative = "" if family == "flux" and _needs_null(text) else None
    if "compose" in text:
        arguments |= {"prompt": [""] * N} if "prompt" in arguments else {"class_labels": [1000] * N}
    resources: dict[str, Any] = {} if '"clf"' not in text else {"clf": LatentClassifier()}
    if '"weak"' in text:
        resources["weak"] = pipeline(family, "weak")
    with fl.attach(pipe, text, negative=negative, resources=resources):
        return run(pipe, arguments, STEPS)


def _needs_null(text: str) -> bool:
    parts = text.replace('cfg(2, negative="blurry")', "")
    return bool(re.search("cfg|compose|bands|fbg|perp_neg|tcfg", parts))


@pytest.mark.parametrize("name", ON)
def test_every_registered_name_has_an_example(name: str) -> None:
    try:
        fl.parse(ON[name])
    except UsageError as error:
        raise AssertionError(f"add an example of {name!r} to ON in tests/pipelines/test_methods.py") from error


def catalogue() -> list[Any]:
    quick = {
        "sd": list(ON),
        "unconditional": ["cfg", "pag", "auto", "cached", "rescale"],
        "dit": ["icg", "classifier", "compose", "cads", "clip"],
        "flux": ["bands", "nag", "seg", "slg", "cads", "region"],
        "sd3": ["sag", "cfgpp"],
        "sana": ["pag", "bands"],
    }
    return [
        pytest.param(family, name, marks=[] if name in quick.get(family, []) else [pytest.mark.slow])
        for family in REFUSED
        for name in ON
    ]


@pytest.mark.parametrize(("family", "name"), catalogue())
def test_every_method_runs_afresh_each_time_or_is_refused(family: str, name: str) -> None:
    text = map_of(32) if (family, name) == ("sana", "pixels") else ON[name]
    if name in REFUSED[family]:
        with pytest.raises(UsageError, match=REFUSED[family][name]) as caught:
            guided(family, text)
        assert "\n" not in str(caught.value)
        return
    first, again = guided(family, text), guided(family, text)
    assert bool(first.isfinite().all())
    assert torch.equal(first, again)


def test_state_is_fresh_for_each_call_in_one_block() -> None:
    """Momentum, caches and sticky flags of one call are not there in the next."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(N)
    with fl.attach(pipe, "apg(cfg(4), momentum=-0.5) + cached(cfg(3)) + adaptive(cfg(2), 0.3)") as attached:
        first, rows = run(pipe, arguments, STEPS), attached.cost.rows
        assert torch.equal(run(pipe, arguments, STEPS), first)
        assert attached.cost.rows == 2 * rows


# oracles


def test_rescale_is_the_pipelines_own_guidance_rescale() -> None:
    for family in ("sd", "sdxl"):
        case = FAMILIES[family]
        pipe, arguments = case.make(), case.arguments(N)
        own = run(pipe, arguments, guidance_scale=6.0, guidance_rescale=0.7)
        with fl.attach(pipe, "cfg(6) | rescale(0.7)"):
            assert apart(run(pipe, arguments), own) < CLOSE


def test_slg_is_sd3s_own_skip_layer_guidance() -> None:
    """Theirs is on for 0.01 < i / steps < 0.2 and such; ours in an interval that holds the same steps."""
    case = FAMILIES["sd3"]
    pipe, arguments = case.make(), case.arguments(N)
    skipping: dict[str, Any] = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_scale": 2.0,
        "skip_layer_guidance_stop": 0.6,
    }
    own = run(pipe, arguments, guidance_scale=6.0, **skipping)  # steps 1 and 2 of 4
    levels = ratios(pipe.scheduler)
    low, high = (levels[2] + levels[3]) / 2, (levels[1] + 2 * levels[1]) / 2
    text = f'cfg(6) + slg(2, layers="transformer_blocks.1").during(sigma=({low}, {high}))'
    with fl.attach(pipe, text):
        assert apart(run(pipe, arguments), own) < CLOSE


@pytest.mark.parametrize(
    ("family", "kind", "theirs", "layers"),
    [
        ("sd", "StableDiffusionPAGPipeline", "mid", None),
        ("sdxl", "StableDiffusionXLPAGPipeline", "mid", None),
        ("sd3", "StableDiffusion3PAGPipeline", r"transformer_blocks\.1", "transformer_blocks.1.attn"),
        ("pixart sigma", "PixArtSigmaPAGPipeline", r"blocks\.1", "transformer_blocks.1.attn1"),
    ],
)
def test_pag_is_diffusers_own(family: str, kind: str, theirs: str, layers: str | None) -> None:
    import diffusers

    case = FAMILIES[family]
    pipe, arguments = case.make(), case.arguments(N)
    attached = f'cfg(6) + pag(2, layers="{layers}")' if layers else "cfg(6) + pag(2)"
    with fl.attach(pipe, attached):
        ours = run(pipe, arguments)
    its = getattr(diffusers, kind)
    taken = inspect.signature(its.__init__).parameters
    other = its(**{k: v for k, v in pipe.components.items() if k in taken}, pag_applied_layers=[theirs])
    other.set_progress_bar_config(disable=True)
    assert apart(ours, run(other, arguments, guidance_scale=6.0, pag_scale=2.0)) < CLOSE


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "ddim v", "euler karras", "flow euler"])
def test_cfgpp_is_its_algorithm_carried_out_by_hand(scheduler: str) -> None:
    """x' = alpha' (D_u + lambda (D_c - D_u)) + sigma' eps_u, in a loop of our own around the network."""
    known = {**SCHEDULERS, **FLOW_SCHEDULERS}
    case = FAMILIES["sana" if scheduler in FLOW_SCHEDULERS else "sd"]
    pipe, arguments = case.make(scheduler=known[scheduler]()), case.arguments(N)
    flow = scheduler in FLOW_SCHEDULERS
    seen: list[tuple[Tensor, Tensor, Tensor, float]] = []
    with fl.attach(pipe, "cfg(3)", observe=lambda o: seen.append(_predictions(o))):
        run(pipe, arguments, 1)
    with fl.attach(pipe, "cfgpp(0.6)", observe=lambda o: seen.append(_predictions(o))):
        ours = run(pipe, arguments, STEPS).double()
    levels = [ratio for _, _, _, ratio in seen[1:]] + [_last_level(pipe.scheduler)]
    for i, (x_t, cond, null, ratio) in enumerate(seen[1:]):
        alpha, sigma = (1 / (1 + ratio), ratio / (1 + ratio)) if flow else _vp(ratio)
        eps = (x_t - alpha * null) / sigma if ratio < math.inf else x_t
        after = levels[i + 1]
        alpha_after, sigma_after = (1 / (1 + after), after / (1 + after)) if flow else _vp(after)
        if ratio == math.inf:
            alpha, sigma = 0.0, 1.0
        x_next = alpha_after * (null + 0.6 * (cond - null)) + sigma_after * eps
        following = (
            seen[i + 2][0] if i + 2 < len(seen) else ours / (_unit(after) if "euler" in scheduler and not flow else 1)
        )
        assert apart(following, x_next) < 1e-4


def _predictions(observation: Any) -> tuple[Tensor, Tensor, Tensor, float]:
    seen = observation.seen
    return seen.x_t, seen.x0(COND), seen.x0(NULL), seen.step.sigma


def _vp(ratio: float) -> tuple[float, float]:
    return 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)


def _unit(ratio: float) -> float:
    """Of the scheduler's x, which is x0 + sigma eps, over ours."""
    return math.sqrt(1 + ratio**2)


def _last_level(scheduler: Any) -> float:
    if not hasattr(scheduler, "sigmas"):
        kept = float(scheduler.final_alpha_cumprod)
        return math.sqrt((1 - kept) / kept)
    return 0.0


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart alpha", "sana", "sd controlnet"])
def test_a_composed_prompt_is_that_prompt(family: str) -> None:
    """compose({p: w}) from the empty prompt is the pipeline's own guidance of p at scale w: the named prompt goes
    through the pipeline's own encoder, and through its control network."""
    case = FAMILIES[family]
    pipe = case.make()
    arguments = case.arguments(N)
    arguments |= {"prompt": ["blue dog"] * N}
    if family == "flux":
        arguments["negative_prompt"] = [""] * N
    own = run(pipe, arguments, 2, **{case.scale: 5.0})
    arguments.pop("negative_prompt", None)
    negative = "" if family == "flux" else None
    with fl.attach(pipe, 'compose({"blue dog": 5})', negative=negative):
        assert apart(run(pipe, {**arguments, "prompt": [""] * N}, 2), own) < CLOSE


def test_a_named_negative_is_that_negative_in_the_call() -> None:
    for family in ("sd", "sdxl", "flux", "sd controlnet"):
        case = FAMILIES[family]
        pipe, arguments = case.make(), case.arguments(N)
        own = run(pipe, {**arguments, "negative_prompt": ["blurry"] * N}, 2, **{case.scale: 5.0})
        arguments.pop("negative_prompt", None)
        with fl.attach(pipe, 'cfg(5, negative="blurry")'):
            assert apart(run(pipe, arguments, 2), own) < CLOSE


def test_auto_of_the_same_network_is_off_and_of_another_is_their_combination() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(N)
    plain = run(pipe, arguments, guidance_scale=1.0)
    with fl.attach(pipe, 'auto(3, weak="weak")', resources={"weak": pipe}):
        assert apart(run(pipe, arguments), plain) < CLOSE
    weak = made.unet(seed=99)
    seen: list[Any] = []
    with fl.attach(pipe, 'auto(3, weak="weak")', resources={"weak": weak}, observe=seen.append):
        run(pipe, arguments, 1)
    (first,) = seen
    swapped = made.sd(network=weak)
    with fl.attach(swapped, "none | rescale(0.5)", observe=seen.append):
        run(swapped, arguments, 1)
    own = first.seen.x0(COND)
    assert apart(first.guided, seen[1].guided + 3 * (own - seen[1].guided)) < 1e-5


def test_an_image_to_match_is_read_from_its_file_or_given(tmp_path: Path) -> None:
    picture().save(tmp_path / "wanted.png")
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    with fl.attach(pipe, f'energy(match("{tmp_path}/wanted.png"), 20)'):
        read = run(pipe, arguments)
    wanted = torch.from_numpy(np.asarray(picture())).permute(2, 0, 1) / 127.5 - 1
    with fl.attach(pipe, 'energy(match("wanted"), 20)', resources={"wanted": wanted}):
        assert apart(run(pipe, arguments), read) < 1e-6
    assert apart(read, run(pipe, arguments, guidance_scale=1.0)) > 1e-3
