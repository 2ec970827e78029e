"""Everyday Python: paths, texts, and numbers of numpy and torch wherever they can be meant; all else is one line."""
# mypy: disable-error-code="arg-type, attr-defined, call-overload, list-item"
# Arguments of types that the annotations do not have, though they are taken, are what is tested here.

import dataclasses
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import fairlead as fl
from fairlead.core.denoiser import counting
from fairlead.core.registry import REGISTRY
from fairlead.guide.engine import GuidedDenoiser
from fairlead.nets.build import net_config
from fairlead.train.loop import Training

MIXTURE = fl.GaussianMixture.ring()
MODEL = fl.toy(MIXTURE, "vp_linear")
CONDITION = MODEL.encode(["0", "1"])
DATA = fl.load_data("digits", limit=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """The path of a training run."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    net = net_config("8x8", 1, 8, 10, channels=8)
    training = Training(DATA, fl.TrainConfig(net, schedule="ve", steps=np.int64(1), batch_size=4), out)
    list(training.run())
    return str(out)


def test_a_path_is_a_model_wherever_one_is_taken(run: str) -> None:
    sampled = fl.sample(run, "seven", steps=2)
    assert torch.equal(sampled.x0, fl.sample(fl.load(run), 7, steps=2).x0)
    assert fl.explain(run, "seven", guidance="cfg(2)", seeds=[0], steps=2).conds == ("seven",)
    assert {finding.question for finding in fl.doctor(run, "cfg(2)", steps=2)} >= {"condition", "network"}
    assert fl.interpolate(run, 1, 7, n=1, frames=3, steps=2).ends == ("one", "seven")
    model = fl.load(run)
    assert model.schedule.config()["name"] == "ve"
    assert isinstance(GuidedDenoiser.of(run, "cfg(2)", model.encode(["one"])), GuidedDenoiser)
    with pytest.raises(fl.UsageError, match="no checkpoint 'runs/nothing'"):
        fl.sample("runs/nothing")


def test_texts_stand_for_guidance_and_schedules() -> None:
    given = fl.GuidedDenoiser(MODEL.denoiser, "cfg(2)", "vp_linear", CONDITION)
    made = fl.GuidedDenoiser(MODEL.denoiser, fl.cfg(2), MODEL.schedule, CONDITION)
    x, t = torch.randn(2, 2), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(given(x, t, CONDITION).x0, made(x, t, CONDITION).x0)
    assert fl.apg("cfg(2)") == fl.apg(fl.cfg(2))
    assert fl.cfg(2) + "pag(2)" == fl.cfg(2) + fl.pag(2)  # type: ignore[operator]
    for name in ("ve", "flow", "vp_cosine"):
        assert fl.toy(MIXTURE, name).schedule.config()["name"] == name
        assert replace(MODEL, schedule=name).schedule.config()["name"] == name
    with pytest.raises(fl.UsageError, match=r"unknown schedule 've2'; did you mean 've'\?"):
        fl.toy(MIXTURE, "ve2")


@pytest.mark.parametrize(
    "number",
    [np.int64, np.int32, np.uint8, torch.tensor, np.array],
    ids=["int64", "int32", "uint8", "torch.tensor", "np.array"],
)
def test_numbers_of_numpy_and_torch_are_numbers(number) -> None:
    plain = fl.sample(MODEL, 1, guidance=fl.cfg(2), n=3, seeds=5, steps=4, batch_size=2)
    given = fl.sample(
        MODEL, number(1), guidance=fl.cfg(number(2)), n=number(3), seeds=number(5), steps=number(4),
        batch_size=number(2),
    )  # fmt: skip
    assert torch.equal(plain.x0, given.x0)
    assert (given.conds, given.seeds) == (plain.conds, plain.seeds) == (("1",) * 3, (5, 6, 7))
    assert given.provenance() == plain.provenance()
    several = fl.sample(MODEL, [number(1), number(0)], seeds=[number(5), number(6)], steps=4)
    assert several.conds == ("1", "0")


def test_numbers_with_a_point_and_arrays() -> None:
    for number in (np.float32, np.float64, torch.tensor):
        terms = (
            fl.cfg(number(2.5)), fl.ramp(number(1.5), number(2.5)), fl.apg(fl.cfg(2), eta=number(0.5)),
            fl.rescale(number(0.5)), fl.cads(number(0.5)), fl.brightness(number(0.5)),
            fl.cfg(2).during(t=(number(0.25), number(0.5))), fl.compose({"1": number(2.5)}),
        )  # fmt: skip
        plain = (
            fl.cfg(2.5), fl.ramp(1.5, 2.5), fl.apg(fl.cfg(2), eta=0.5), fl.rescale(0.5), fl.cads(0.5),
            fl.brightness(0.5), fl.cfg(2).during(t=(0.25, 0.5)), fl.compose({"1": 2.5}),
        )  # fmt: skip
        assert terms == plain
        assert list(map(str, terms)) == list(map(str, plain))
    assert fl.cfg(np.array([1.5, 2.0])) == fl.cfg([1.5, 2]) == fl.cfg(torch.tensor([1.5, 2.0]))
    assert fl.cfg(np.array([[1.0, 2.0]])) == fl.cfg(fl.pixels([[1, 2]]))
    for conds in ([0, 1], np.array([0, 1]), torch.tensor([0, 1]), range(2)):
        assert fl.sample(MODEL, conds, seeds=np.arange(2), steps=2).conds == ("0", "1")


def test_conditions_of_lists_and_arrays() -> None:
    for values in ([0, 1], (0, 1), np.array([0, 1]), torch.tensor([0, 1])):
        assert fl.Condition.of(label=values).equals(CONDITION)
    with pytest.raises(fl.UsageError, match=r"expected values \[1, ...\]"):
        fl.Condition.of(label=np.int64(1))
    assert CONDITION[1].equals(MODEL.encode(["1"]))
    assert [part.n for part in CONDITION] == [1, 1]
    assert CONDITION.drop(names="label").is_null
    with pytest.raises(fl.UsageError, match=r"names and prompts go through model.encode"):
        fl.Condition.of(label=["zero"])
    for one in ("12", 3, None):  # one spec, whose letters are none
        with pytest.raises(fl.UsageError, match="expected a list with one condition per sample"):
            MODEL.encode(one)


def test_own_denoisers_are_counted_once() -> None:
    """Where they do not count their rows themselves, the call is counted."""

    def own(x_t, t, condition):
        return fl.Prediction(x_t * 0, x_t)

    def around(x_t, t, condition):
        return MODEL.denoiser(x_t, t, condition)

    for guidance, rows in (("none", 2 * 3), ("cfg(2)", 2 * 2 * 3), ("cfg(0)", 2 * 3)):
        for denoiser in (own, around, MODEL.denoiser):
            sampled = fl.sample(replace(MODEL, denoiser=denoiser), ["0", "1"], guidance=guidance, steps=3)
            assert sampled.cost.rows == rows
    guided = fl.GuidedDenoiser(own, "cfg(2)", MODEL.schedule, CONDITION)
    with counting() as cost:
        guided(torch.zeros(2, 2), torch.tensor(0.5), CONDITION)
        fl.GuidedDenoiser(guided, "none", MODEL.schedule, CONDITION)
    assert cost.rows == 4
    weak = replace(MODEL, denoiser=own)
    sampled = fl.sample(MODEL, ["0", "1"], guidance='auto(2, weak="w")', resources={"w": weak}, steps=3)
    assert sampled.cost.rows == 12


def test_what_is_printed_is_short() -> None:
    sampled = fl.sample(MODEL, [i % 4 for i in range(500)], steps=2)
    config = fl.TrainConfig(net_config("8x8", 1, 8, 10), text={"vocabulary": ["word"] * 5000})
    things = [sampled, sampled.condition, MODEL, DATA, MIXTURE, config, MODEL.denoiser(
        torch.zeros(2, 2), torch.tensor(0.5), CONDITION
    ), fl.explain(MODEL, "1", guidance="cfg(2)", steps=2)]  # fmt: skip
    for thing in things:
        assert len(repr(thing)) < 1200, type(thing)
        assert "\n" not in repr(thing)
    assert "x0=float32 [500, 2], images=None, conds=('0', '1', '2', '3', '0', '1', ... 500 in all)" in repr(sampled)


def noised(x_t, t, condition):
    return fl.Prediction(x_t * 0, x_t)


def enter(**arguments):
    with fl.attach(**arguments):
        pass


WRONG: list[Any] = [
    "", "x", None, 0, -1, 2.5, math.nan, math.inf, True, [], ["a"], {}, {"a": 1}, {1: 2}, b"x", object(), [None],
    np.float32(2), np.array([[1, 2], [3, 4]]), torch.tensor([1.0, 2.0]), 10**400, noised, int, MODEL, CONDITION, "\0",
    1j, slice(2),
]  # fmt: skip
X0 = torch.zeros(2, 2)
RUN = {"sampler": "ddim", "steps": 2, "grid": "trailing"}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sample": (fl.sample, {"model": MODEL, "cond": "0", "guidance": "cfg(2)", "n": 2, "seeds": 0, "batch_size": 2,
                           "precision": "fp32", "batching": "auto", "resources": None, "start": None,
                           "strength": None, "mask": None, "resample": None, **RUN}),
    "sample from images": (fl.sample, {"model": MODEL, "cond": "0", "start": X0, "strength": 0.5,
                                       "mask": [True, False], "resample": 2, **RUN}),
    "invert": (fl.invert, {"model": MODEL, "images": X0, "cond": "0", "method": "fixed-point", "guidance": "cfg(2)",
                           "strength": 0.5, "rounds": 2, "seeds": 0, "steps": 2, "grid": "trailing"}),
    "edit": (fl.edit, {"model": MODEL, "images": X0, "cond": "0", "method": "inversion", "source": "1",
                       "strength": 0.5, "mask": None, "resample": None, "rounds": None, "inverted": None,
                       "guidance": "cfg(2)", "source_guidance": None, "n": 1, "resize": False, "seed": 0, "steps": 2}),
    "explain": (fl.explain, {"model": MODEL, "cond": "0", "guidance": "cfg(2)", "seeds": [0], **RUN}),
    "doctor": (fl.doctor, {"model": MODEL, "guidance": "none", "cond": "0", "data": None, "resources": None, **RUN}),
    "interpolate": (fl.interpolate, {"model": MODEL, "a": "0", "b": "1", "n": 1, "frames": 3, "seed": 0, **RUN}),
    "load": (fl.load, {"spec": "runs/none", "weights": "ema", "device": "cpu", "autoencoder": None}),
    "load_autoencoder": (fl.load_autoencoder, {"source": "runs/none"}),
    "load_data": (fl.load_data, {"spec": "digits", "split": "train", "size": 8, "limit": 5, "flip": None,
                                 "caption_column": None, "fit": "centre"}),
    "export": (fl.export, {"folder": "runs/none", "spec": "runs/none", "weights": "ema"}),
    "toy": (fl.toy, {"toy": MIXTURE, "schedule": "ve"}),
    "ring": (fl.GaussianMixture.ring, {"classes": 3, "radius": 1.0, "std": 1.0}),
    "attach": (enter, {"pipe": None, "guidance": "cfg(2)", "negative": None,
                                                "resources": None, "batching": "auto"}),
    "from_guider": (fl.from_guider, {"guider": None, "objective": "eps"}),
    "diffusers_config": (fl.diffusers_config, {"network": "UNet2DModel", "config": {}, "channels_in": 1, "size": 8,
                                               "classes": 0}),
    "GuidedDenoiser": (fl.GuidedDenoiser, {"denoiser": noised, "guidance": "cfg(2)", "schedule": "ve",
                                           "condition": CONDITION, "encode": MODEL.encode, "times": None,
                                           "samples": None, "batching": "auto"}),
    "GuidedDenoiser.of": (GuidedDenoiser.of, {"model": MODEL, "guidance": "cfg(2)", "condition": CONDITION,
                                              "resources": None}),
    "Condition": (fl.Condition, {"n": 2, "values": {}, "keep": {}}),
    "Condition.of": (fl.Condition.of, {"label": [0, 1]}),
    "Condition.drop": (CONDITION.drop, {"mask": None, "names": None}),
    "Condition.cat": (fl.Condition.cat, {"parts": [CONDITION]}),
    "encode": (MODEL.encode, {"specs": ["0"]}),
    "named": (MODEL.named, {"spec": "0"}),
    "during": (fl.cfg(2).during, {"sigma": (0, 1)}),
    "save": (fl.sample(MODEL, steps=1).save, {"folder": "x"}),
    "provenance": (fl.sample(MODEL, steps=1).provenance, {"index": 0}),
}  # fmt: skip
CALLS |= {
    kind.__name__: (kind, {f.name: getattr(made, f.name) for f in dataclasses.fields(kind)})
    for kind, made in (
        (fl.Model, MODEL), (fl.GaussianMixture, MIXTURE), (fl.TrainConfig, fl.TrainConfig(net_config("8x8", 1, 8, 10))),
        (type(DATA), DATA),
    )
}  # fmt: skip
PARTS: dict[str, Any] = {
    "compose": fl.compose({"1": 2}), "classifier": fl.classifier(1, "x"), "energy": fl.energy(fl.brightness(0.5)),
    "bands": fl.bands([1, 2]), "perp_neg": fl.perp_neg(2, "1"), "auto": fl.auto(2, weak="x"), "color": fl.color("red"),
    "match": fl.match("x"), "label": fl.label("x"), "preference": fl.preference("x"),
    "clamp": fl.clamp(fl.ramp(1, 2), low=1), "levels": fl.levels({2: 1}),
    "pixels": fl.pixels([[1, 2]]), "region": fl.region(1, 2, [0, 0, 1, 1]),
}  # fmt: skip
for registered in (name for kind in ("term", "finisher", "scale", "reward") for name in REGISTRY[kind]):
    part = getattr(fl, registered)
    made = PARTS.get(registered) or part(
        **{
            f.name: fl.cfg(4) if f.name == "term" else 0.5
            for f in dataclasses.fields(part)
            if f.default is dataclasses.MISSING
        }
    )
    CALLS[registered] = (part, {f.name: getattr(made, f.name) for f in dataclasses.fields(part)})


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_every_argument_is_taken_or_refused_in_one_line(name: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    called, right = CALLS[name]
    refused = []
    for argument in right:
        for wrong in WRONG:
            try:
                called(**{**right, argument: wrong})
            except fl.UsageError as error:
                refused.append(str(error))
    assert refused or not right
    assert not [message for message in refused if "\n" in message or "object has no attribute" in message]
