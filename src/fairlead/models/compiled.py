"""A model whose network runs compiled; made once for each network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.models.model import Model
from fairlead.nets.compiling import compiled_twin

_TWINS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def compiled(model: Model) -> Model:
    """The same model, compiled; its first calls take as long as compiling does.

    Raises:
        UsageError: for a model that is no network trained here.
    """
    if not _has_network(model):
        raise UsageError(
            "compile: expected a model whose network was trained here, from fl.load of a run; a pipeline's network is "
            "compiled before it is loaded, pipe.unet.compile(), and a function of yours by torch.compile"
        )
    denoiser: Any = model.denoiser
    if denoiser.network not in _TWINS:
        _TWINS[denoiser.network] = compiled_twin(denoiser.network)
    return replace(model, denoiser=NetworkDenoiser(_TWINS[denoiser.network], denoiser.schedule, denoiser.objective))


def compiled_resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Those of them compiled that are models with a network trained here."""
    return {
        name: compiled(thing) if isinstance(thing, Model) and _has_network(thing) else thing
        for name, thing in resources.items()
    }


def _has_network(model: Model) -> bool:
    return type(model.denoiser) is NetworkDenoiser and isinstance(model.denoiser.network, nn.Module)
