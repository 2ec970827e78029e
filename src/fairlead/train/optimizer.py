"""How weights move in the training loop: AdamW or Muon, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.train.config import TrainConfig

SMALLEST = 16
"""A matrix with a side below this (the last layer of an image, mostly) is left to AdamW."""


class Muon(torch.optim.AdamW):
    """Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) for matrices, AdamW for all else.

    The momentum of a matrix is replaced by the nearest orthogonal matrix, so that a direction with small gradients
    is learnt at the pace of one with large gradients: in a picture, the small shape as well as the wide background.
    The kernel of a convolution [out, in, h, w] is a matrix [out, in h w]. Updates are scaled to the size of AdamW's,
    0.2 sqrt(longer side), so that learning rates carry over (Liu 2025, 2502.16982, section 2.2). ``torch.optim.Muon``
    is this rule for plain matrices only, and multiplies in bfloat16 everywhere, which CPUs without it do slowly.

    Args:
        matrices: parameters of two or more dimensions.
        others: parameters.
        momentum: decay of the mean of the gradients, looked one step ahead (Nesterov).
        lr, weight_decay (decoupled): of both; betas: of AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(others), "orthogonal": False},
            {"params": list(matrices), "orthogonal": True},
        ]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                given = [parameter for parameter in group["params"] if parameter.grad is not None]
                self._turn(given, group["lr"], group["weight_decay"])
        return loss

    def _turn(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        """All matrices of one shape at once: most are small, and one product of many takes less than many of one."""
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())  # every state of AdamW has one
                state["momentum"] = torch.zeros_like(parameter)
            state["step"] += 1
        means = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(means, grads, 1 - self.momentum)
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter, ahead in zip(parameters, torch._foreach_lerp(grads, means, self.momentum), strict=True):
            weight, step = _wide(parameter, parameter), _wide(ahead, parameter)
            alike.setdefault((step.shape[0], step.shape[1]), []).append((weight, step))
        if weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        for (_, longer), pairs in alike.items():
            updates = orthogonalised(torch.stack([step for _, step in pairs]))
            torch._foreach_add_([weight for weight, _ in pairs], updates.unbind(), alpha=-0.2 * longer**0.5 * lr)


def _wide(value: Tensor, parameter: Tensor) -> Tensor:
    """A parameter, as a view, or what belongs to one, as a matrix with no more rows than columns. The columns of a
    kernel in channels-last memory are in the order of that memory, which changes nothing for their directions."""
    flat = torch.Tensor.view if value is parameter else torch.Tensor.reshape  # never a copy of the parameter
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        value = value.permute(0, 2, 3, 1)
    shape = value.shape[0], value[0].numel()
    matrix = flat(value, shape)
    return matrix.T if shape[0] > shape[1] else matrix


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of matrix = U S V^T [..., m, n]: singular values between about 0.7 and 1.2 in place of S.

    A quintic iteration of Newton and Schulz, x <- (a + b x x^T + c (x x^T)^2) x from x = matrix / norm, with the
    coefficients of Jordan 2024, which are steep at zero.
    """
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x.reshape(-1, *x.shape[-2:])
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    if 3 * x.shape[1] > 2 * x.shape[2]:
        for _ in range(steps):
            x = _factor(x @ x.mT) @ x
    else:  # all factors are polynomials in the first x x^T: work on that small square, meet the long side twice only
        gram = x @ x.mT
        total = factor = _factor(gram)
        for _ in range(steps - 1):
            gram = factor @ gram @ factor
            factor = _factor(gram)
            total = factor @ total
        x = total @ x
    out: Tensor = x.mT if matrix.shape[-2] > matrix.shape[-1] else x
    return out.reshape(matrix.shape)


def _factor(gram: Tensor) -> Tensor:
    """[k, m, m]"""
    factor: Tensor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
    factor.diagonal(dim1=1, dim2=2).add_(3.4445)
    return factor


def stored_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as tensors called "INDEX.NAME"."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_state(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Let an optimiser go on from what :func:`stored_state` gave.

    Raises:
        ValueError: as :func:`optimizer_state`.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict({"state": optimizer_state(stored, parameters), "param_groups": groups})


def optimizer_state(stored: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[int, dict[str, Tensor]]:
    """The state that an optimiser of ``parameters`` goes on from, of tensors called "INDEX.NAME".

    Raises:
        ValueError: for a tensor of no parameter, or not of its shape.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        index, _, key = name.partition(".")
        if not (index.isdecimal() and len(index) < 10 and int(index) < len(parameters) and key):
            raise ValueError(f"{name[:60]!r} belongs to no parameter")
        parameter = parameters[int(index)]
        if tensor.dtype != torch.float32 or tensor.shape not in ((), parameter.shape):
            raise ValueError(f"{name!r} is {tensor.dtype} {list(tensor.shape)}, expected {list(parameter.shape)}")
        if tensor.ndim:  # moments in another memory format than their parameter are off the fast path
            tensor = torch.empty_like(parameter, device="cpu", requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    if len({frozenset(entry) for entry in state.values()}) > 2:  # of AdamW, and of Muon
        raise ValueError("parts of the state of a parameter are missing")
    return state


def matrices_of(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Of the parameters that are trained: (weights of linear maps and convolutions with both sides of at least
    ``SMALLEST``, all others)."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in network.named_parameters():
        weight = name.endswith("weight") and parameter.ndim >= 2 and id(parameter) not in tables
        large = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST
        if parameter.requires_grad:
            found[not (weight and large)].append(parameter)
    return found


def optimizer_of(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Of parameters in the memory format that they will keep."""
    lr, weight_decay, betas = config.lr, config.weight_decay, config.betas
    if config.optimizer == "muon":
        return Muon(*matrices_of(network), lr, weight_decay, betas)
    return torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, betas=betas, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, at most half of the run, then cosine to 0 at ``config.steps`` or constant; ``step`` counts
    from 0."""
    warmup = min(config.warmup, config.steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.decay == "constant":
        return config.lr
    progress = (step - warmup) / (config.steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
