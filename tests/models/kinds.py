"""A small run of every kind of checkpoint: what is damaged in tests of damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.diffusers.kl_autoencoder import finished_autoencoder, save_autoencoder
from fairlead.nets.build import AUTOENCODER_PRESETS, CLASSIFIER_PRESETS, net_config
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from tests.train.tiny import tiny_config

KINDS = ("model", "classifier", "autoencoder", "latents", "text", "attributes", "lora")


def digits() -> ImageData:
    return load_digits().subset(slice(0, 24))


def run_of(kind: str, place: Path) -> Path:
    """The folder of a run of two steps, made below ``place`` with all that it needs."""
    return _MADE[kind](place)


def _train(config: TrainConfig, data: ImageData, out: Path) -> Training:
    training = Training(data, config, out)
    for _ in training.run():
        pass
    return training


def _model(place: Path) -> Path:
    _train(tiny_config(steps=2, data={"spec": "digits"}), digits(), place / "model")
    return place / "model"


def _classifier(place: Path) -> Path:
    net = net_config("8x8", 1, 8, 10, presets=CLASSIFIER_PRESETS, channels=8, embed=16)
    _train(tiny_config(net=net, objective="label", drop=0.0, steps=2), digits(), place / "classifier")
    return place / "classifier"


def _autoencoder(place: Path) -> Path:
    net = net_config("factor-2", 1, 8, 0, presets=AUTOENCODER_PRESETS, channels=8)
    config = tiny_config(net=net, objective="l1", kl=1e-6, drop=0.0, steps=2)
    training = _train(config, digits(), place / "autoencoder")
    save_autoencoder(finished_autoencoder(training), training, {})
    return place / "autoencoder"


def _latents(place: Path) -> Path:
    beside = place / "autoencoder"
    source = load_autoencoder(beside if beside.is_dir() else _autoencoder(place))
    latents = source.config((1, 8, 8))
    net = net_config("latent-8", latents["shape"][0], latents["shape"][1], 10, channels=8, embed=16)
    _train(tiny_config(net=net, latents=latents, steps=2), digits(), place / "latents")
    return place / "latents"


def _told(names: tuple[str, ...], out: Path) -> Path:
    from tests.train.test_conditions import captioned

    data = captioned()
    classes, inputs, text = asked(data, names)
    net = net_config("8x8", 3, 8, classes, channels=8, embed=16, **inputs)
    _train(tiny_config(net=net, text=text, steps=2, batch_size=4), data, out)
    return out


def _text(place: Path) -> Path:
    return _told(("text",), place / "text")


def _attributes(place: Path) -> Path:
    return _told(("label", "ink"), place / "attributes")


def _lora(place: Path) -> Path:
    from fairlead.diffusers.lora import Base
    from tests.pipelines import made
    from tests.pipelines.trained import captioned

    pipeline = place / "pipeline"
    scheduler = made.ddim(prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=True)
    made.sd(scheduler=scheduler).save_pretrained(pipeline)
    data = captioned()
    data = replace(data, images=data.images.repeat(1, 3, 1, 1))
    base = Base.of(str(pipeline))
    _, inputs, text = asked(data, ["text"], base.text, settings={"masked": False})
    latents = load_autoencoder(base.folder).config(data.shape)
    fixed: dict[str, Any] = {"schedule": base.schedule, "objective": base.objective, "text": text, "latents": latents}
    net = base.net(latents["shape"][0], latents["shape"][1], 4, inputs["text"])
    config = TrainConfig(net=net, steps=2, batch_size=4, warmup=1, precision="fp32", **fixed)
    _train(config, data, place / "lora")
    return place / "lora"


_MADE = {
    "model": _model, "classifier": _classifier, "autoencoder": _autoencoder, "latents": _latents, "text": _text,
    "attributes": _attributes, "lora": _lora,
}  # fmt: skip


def data_of(kind: str) -> ImageData:
    """What the run of a kind was trained on, but for adapters."""
    from tests.train.test_conditions import captioned

    return captioned() if kind in ("text", "attributes") else digits()
