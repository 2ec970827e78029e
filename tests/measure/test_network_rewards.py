"""Rewards by networks: the classifier of the data that rewards, CLIP, models of preference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.data.images import to_float, to_uint8
from fairlead.guide.moment import Context
from fairlead.guide.rewards.reward import as_reward
from fairlead.measure.extractors import extractor
from fairlead.measure.judge import cached_classifier, recipe_for
from fairlead.models.model import Model
from tests.guide.toy import network_model
from tests.measure.tiny_clip import tiny_clip

ZERO = torch.zeros((), dtype=torch.float64)
SETTINGS = {
    "do_resize": True, "size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
    "do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3,
}  # fmt: skip


def value(reward, x0: Tensor, model: Model, specs=None) -> Tensor:
    specs = [None] * len(x0) if specs is None else specs
    on = Context(model=model, condition=model.encode(specs), specs=tuple(specs))
    made = as_reward("reward", reward)
    made.check(on)
    return made.of_samples(on)(x0, ZERO, on.condition)


def digits_model() -> Model:
    data = fl.load_data("digits", split="test")
    model = network_model()
    from fairlead.models.model import LabelEncoder

    return replace(
        model,
        classes=data.classes,
        encode=LabelEncoder(data.classes),
        metadata={"data": "digits"},
        conditions=("label",),
    )


def test_judged_is_a_classifier_of_the_data_that_does_not_measure() -> None:
    model, data = digits_model(), fl.load_data("digits", split="test")
    images, names = to_float(data.images[:40]), [data.classes[i] for i in data.labels[:40].tolist()]
    seeds = {recipe_for(data, role).seed for role in ("judge", "features", "reward")}
    assert len(seeds) == 3
    exact = cached_classifier(fl.load_data("digits", split="train"), "reward").logits(data.images[:40]).log_softmax(1)
    torch.testing.assert_close(value('judged("seven")', images, model), exact[:, 7].double(), rtol=1e-5, atol=1e-5)
    own = value("judged()", images, model, names)
    torch.testing.assert_close(own, exact.gather(1, data.labels[:40, None])[:, 0].double(), rtol=1e-5, atol=1e-5)
    seen = value("judged(hard=True)", images, model, names)
    assert seen.tolist() == (exact.argmax(1) == data.labels[:40]).double().tolist()
    assert float(seen.mean()) > 0.9
    assert value("judged(hard=True)", images[:2], model, [None, names[1]]).tolist()[0] == 0
    for wrong, message in (('judged("eleven")', "class"), ('judged("one", "mnist")', "mnist")):
        with pytest.raises(UsageError, match=message):
            value(wrong, images, model)


def test_similarity_is_the_cosine_of_clip_and_has_a_gradient(tmp_path: Path) -> None:
    folder, model = tiny_clip(tmp_path / "clip", SETTINGS), network_model()
    x0 = to_float(torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8))
    network = extractor(f"clip:{folder}")
    assert network.texts is not None
    texts = network.texts(["a red square"])
    wanted = torch.cosine_similarity(network.features(to_uint8(x0)), texts.values, dim=1)
    leaf = x0.clone().requires_grad_()
    found = value(f'similarity("a red square", "{folder}")', leaf, model)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01)  # which rounds the resized image to whole levels
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    step = 1e-2
    moved = value(f'similarity("a red square", "{folder}")', x0 + step * gradient, model)
    assert bool((moved > found).all())
    preferred = value(f'preference("{folder}", "a red square")', x0, model)
    torch.testing.assert_close(preferred, found * preferred / found)  # one factor for all: the logit scale
    assert float((preferred / found).detach().std()) < 1e-3 * float((preferred / found).detach().mean())
    assert str(fl.parse(f'energy(similarity("a red square", "{folder}"), 100)'))


def test_similarity_reads_the_prompt_of_each_sample(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip", SETTINGS)
    model = replace(network_model(), encode=lambda specs: network_model().encode([None] * len(specs)))
    x0 = torch.rand(2, 1, 8, 8)
    apart = [value(f'similarity("{text}", "{folder}")', x0, model) for text in ("red", "a blue square")]
    both = value(f'similarity(None, "{folder}")', x0, model, ["red", "a blue square"])
    torch.testing.assert_close(both, torch.stack([apart[0][0], apart[1][1]]))


def test_a_classifier_of_images_is_a_preference(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "liked"
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label={0: "disliked", 1: "liked"}, label2id={"disliked": 0, "liked": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    x0, model = torch.rand(3, 1, 8, 8), network_model()
    parts = [value(f'preference("{folder}", of_class="{name}")', x0, model) for name in ("liked", "disliked")]
    torch.testing.assert_close(parts[0].exp() + parts[1].exp(), torch.ones(3))
    for text, message in (
        (f'preference("{folder}")', "say of_class"),
        (f'preference("{folder}", of_class="lovely")', "known: disliked, liked"),
        (f'preference("{folder}", "a cat")', "sees images only"),
        (f'preference("{tmp_path / "none"}")', "no folder"),
        (f'similarity("red", "{folder}")', "wrong model"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            value(text, x0, model)
        assert "\n" not in str(caught.value)
