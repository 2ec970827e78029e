"""Folders of others: safetensors are read, whatever their variant; pickles and code never, and what they would do is
not done."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.places import place_of
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.diffusers.foreign_files import variant_of
from fairlead.diffusers.lora import Base
from fairlead.diffusers.pretrained import files_of
from fairlead.diffusers.text_encoders import PretrainedText
from fairlead.measure.extractors import extractor
from tests.pipelines import made

BROKEN_INTO = Path("broken-into")
"""What hostile files write where they are read."""


class Writes:
    def __reduce__(self) -> Any:
        return (BROKEN_INTO.write_text, ("x",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "sd"
    made.sd().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, seen from an empty working directory."""
    shutil.copytree(whole, tmp_path / "sd")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "sd"


def renamed(part: Path, suffix: str) -> None:
    """All weights of a part as a variant."""
    for file in part.glob("*.safetensors"):
        file.rename(part / f"{file.stem}{suffix}.safetensors")


def pickled(part: Path, suffix: str = ".bin", hostile: bool = True) -> None:
    """All weights of a part as pickles."""
    for file in part.glob("*.safetensors"):
        stem = "pytorch_model" if file.stem == "model" else file.stem
        weights = load_file(file)
        (part / f"{stem}{suffix}").write_bytes(pickle.dumps(Writes())) if hostile else torch.save(
            weights, part / f"{stem}{suffix}"
        )
        file.unlink()


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(load: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not BROKEN_INTO.exists()


CODE = f"from pathlib import Path\nPath({str(BROKEN_INTO)!r}).write_text('x')\nclass Mine: pass\n"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(("suffix", "hostile"), [(".bin", True), (".bin", False), (".fp16.bin", True), (".ckpt", True)])
def test_pickled_weights_are_refused_and_how_to_convert_them_is_said(
    folder: Path, part: str, suffix: str, hostile: bool
) -> None:
    pickled(folder / part, suffix, hostile)
    refused(lambda: fl.load(folder), rf"{part}.*is pickled.*save_pretrained\(.*safe_serialization=True\)")


def test_a_pickle_with_the_name_of_safetensors_is_not_unpickled(folder: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            kept = file.read_bytes()
            file.write_bytes(pickle.dumps(Writes()))
            refused(lambda: fl.load(folder), "cannot be loaded as a diffusers pipeline")
            file.write_bytes(kept)
    fl.load(folder)


def test_an_index_of_shards_that_names_a_pickle(folder: Path) -> None:
    unet = folder / "unet"
    (file,) = unet.glob("*.safetensors")
    names = list(load_file(file))
    file.unlink()
    (unet / "shard.bin").write_bytes(pickle.dumps(Writes()))
    for target in ("shard.bin", "../evil.safetensors"):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, target)}
        (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
        refused(lambda: fl.load(folder), r"index\.json names .*expected files \*\.safetensors")


@pytest.mark.parametrize(
    ("changes", "files", "words"),
    [
        ({"_class_name": ["pipeline", "Mine"]}, ["pipeline.py"], "code of its own"),
        ({"_class_name": "Mine"}, ["pipeline.py"], "code of its own"),
        ({"_class_name": 3}, [], "code of its own"),
        ({"unet": ["mine", "Mine"]}, ["unet/mine.py"], r"its unet is mine\.Mine, which is not of diffusers"),
        ({"unet": ["os", "system"]}, [], r"its unet is os\.system"),
        ({"unet": ["diffusers.utils", "Mine"]}, [], r"its unet is diffusers\.utils\.Mine"),
        ({"more": ["mine", "Mine"]}, ["mine.py"], r"its more is mine\.Mine"),
        ({}, ["unet/diffusers.py"], r"unet.diffusers\.py is code"),
        ({}, ["text_encoder/transformers.py"], r"text_encoder.transformers\.py is code"),
        ({}, ["scheduler/deep/er.py"], r"er\.py is code"),
    ],
)
def test_code_is_never_run(folder: Path, changes: dict[str, Any], files: list[str], words: str) -> None:
    edited(folder, **changes)
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(CODE)
    refused(lambda: fl.load(folder), words)


@pytest.mark.parametrize("text", ["", "[1]", "{" * 100_000, '{"a": '])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    refused(lambda: fl.load(folder), "model_index.json")


def test_code_in_the_configuration_of_a_text_encoder(folder: Path) -> None:
    for part, file in (("text_encoder", "config.json"), ("tokenizer", "tokenizer_config.json")):
        path = folder / part / file
        kept = path.read_text()
        path.write_text(
            json.dumps(
                {**json.loads(kept), "auto_map": {"AutoModel": "mine.Mine", "AutoTokenizer": ["mine.Mine", None]}}
            )
        )
        (folder / part / "mine.py").write_text(CODE)
        refused(lambda: fl.load(folder), r"mine\.py is code")
        (folder / part / "mine.py").unlink()
        edited(folder, **{part: ["transformers", "AutoModel" if part == "text_encoder" else "AutoTokenizer"]})
        refused(lambda: fl.load(folder), "refers to its own code")
        path.write_text(kept)
        edited(folder, text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"])


def test_what_else_reads_folders_refuses_pickles(folder: Path) -> None:
    """The base of adapters, autoencoders, text encoders, feature extractors."""
    pickled(folder / "unet")
    refused(lambda: Base.of(str(folder)), r"unet.*is pickled.*safe_serialization=True")
    pickled(folder / "vae")
    refused(lambda: load_autoencoder(folder), r"vae.*is pickled.*safe_serialization=True")
    pickled(folder / "text_encoder")
    for source in (folder, folder / "text_encoder"):
        read = partial(PretrainedText, "clip", str(source), "CLIPTextModel", "end")
        refused(read, r"pytorch_model.bin is pickled.*safe_serialization=True")
    (folder / "text_encoder" / "preprocessor_config.json").write_text("{}")
    refused(lambda: extractor(f"clip:{folder / 'text_encoder'}", device="cpu"), r"is pickled.*safe_serialization=True")


def test_weights_of_inception_are_read_without_running_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    class Inception(torch.nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            given.append(torch.load(feature_extractor_weights_path, weights_only=False))  # as the package does

    module = SimpleNamespace(FeatureExtractorInceptionV3=Inception, URL_INCEPTION_V3="https://nowhere/weights-12ab.pth")
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    hostile, plain = folder / "hostile.pth", folder / "plain.pth"
    hostile.write_bytes(pickle.dumps({"w": Writes()}))
    torch.save({"w": torch.ones(2)}, plain)
    save_file({"w": torch.ones(2)}, folder / "plain.safetensors")
    refused(lambda: extractor(f"inception:{hostile}", device="cpu"), "the weights cannot be loaded")
    for file in (plain, folder / "plain.safetensors"):
        extractor(f"inception:{file}", device="cpu")
        assert list(given.pop()) == ["w"]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir()
    shutil.copy(hostile, folder / "checkpoints" / "weights-12ab.pth")
    refused(lambda: extractor("inception", device="cpu"), "the weights cannot be loaded")
    assert not given


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",), ("vae",)])
def test_a_folder_with_a_variant_only_is_the_same_pipeline(folder: Path, whole: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        renamed(folder / part, ".fp16")
    assert fl.load(folder).metadata["weights_hash"] == fl.load(whole).metadata["weights_hash"]


def test_variants_elsewhere(folder: Path, whole: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        renamed(folder / part, ".bf16")
    assert load_autoencoder(folder).hash == load_autoencoder(whole).hash
    assert Base.of(str(folder)).base == Base.of(str(whole)).base
    text = [PretrainedText("clip", str(source), "CLIPTextModel", "end") for source in (folder, whole)]
    assert text[0].config()["weights"] == text[1].config()["weights"]


def test_which_variant(tmp_path: Path) -> None:
    for names, wanted in (
        (["m.safetensors", "m.fp16.safetensors"], None),
        (["m.non_ema.safetensors", "m.fp16.safetensors"], "fp16"),
        (["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"], "fp16"),
        (["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"], None),
        (["m.ema.safetensors"], "ema"),
    ):
        folder = tmp_path / str(wanted) / str(len(names))
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        assert variant_of(folder, "it") == wanted
        shutil.rmtree(folder)


def test_where_a_folder_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, base = tmp_path / "project" / "runs" / "a" / "step4", tmp_path / "project" / "pipes" / "sd"
    run.mkdir(parents=True)
    base.mkdir(parents=True)
    assert place_of("project/pipes/sd", run) == "project/pipes/sd"
    assert place_of("pipes/sd", run) == str(base)
    assert place_of("/long/ago/project/pipes/sd", run) == str(base)
    assert place_of("/long/ago/sd", run) == "/long/ago/sd"
    assert place_of("owner/name", run) == "owner/name"


def test_a_missing_local_folder_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "model_info", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipes").mkdir()
    for source in ("pipes/sd", str(tmp_path / "sd"), "./sd", "../sd", "~/no-such-sd"):
        refused(partial(files_of, source, "it", Path, list), "no folder")
