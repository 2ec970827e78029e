"""Muon's rule for matrices, beside torch's own and the exact polar factor; AdamW for all else."""

import pytest
import torch
from torch import nn

from fairlead.nets.build import build_net
from fairlead.train.loop import Training
from fairlead.train.optimizer import SMALLEST, Muon, matrices_of, orthogonalised
from tests.train.tiny import digits, tiny_config, tiny_net


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_a_matrix_becomes_nearly_orthogonal_in_its_own_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalised(matrix) @ vh.T
    large = s > 0.1 * s[0]  # five steps do not yet lift what is nearly zero
    torch.testing.assert_close(inner, inner.diagonal().diag(), atol=1e-10, rtol=0)
    assert inner.diagonal()[large].min() > 0.65
    assert inner.diagonal().max() < 1.25


def test_a_step_is_that_of_torch_for_matrices():
    """torch multiplies in bfloat16, hence the tolerance: 2 % of the size of an update."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (nn.Parameter(torch.ones(32, 48)) for _ in range(2))
    mine = Muon([ours], [], lr=0.01, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(ours.shape, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_kernel_is_the_matrix_of_its_outputs_and_all_else_is_adamw():
    generator = torch.Generator().manual_seed(2)
    kernel, bias = nn.Parameter(torch.zeros(16, 4, 3, 3)), nn.Parameter(torch.zeros(16))
    flat, alone = nn.Parameter(torch.zeros(16, 36)), nn.Parameter(torch.zeros(16))
    both, matrix = Muon([kernel], [bias], lr=0.1), Muon([flat], [], lr=0.1)
    adam = torch.optim.AdamW([alone], lr=0.1, weight_decay=0.0, fused=True)
    for _ in range(3):
        kernel.grad = torch.randn(kernel.shape, generator=generator)
        flat.grad = kernel.grad.flatten(1)
        bias.grad = torch.randn(16, generator=generator)
        alone.grad = bias.grad.clone()
        for optimizer in (both, matrix, adam):
            optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), flat, rtol=0, atol=1e-7)
    assert torch.equal(bias, alone)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_matrices_of_one_shape_turn_at_once_as_each_would_alone(format):
    """Wide, tall and kernels, in any memory, whatever that of their gradients; the same state as before."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(24, 40), (40, 24), (24, 40), (24, 10, 2, 2), (16, 4, 3, 3), (16, 18)]
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    together = [nn.Parameter(v.contiguous(memory_format=format) if v.ndim == 4 else v.clone()) for v in given]
    alone = [nn.Parameter(v.flatten(1).clone()) for v in given]
    optimizers = [
        Muon(together, [], lr=0.1, weight_decay=0.1),
        *(Muon([p], [], lr=0.1, weight_decay=0.1) for p in alone),
    ]
    for _ in range(2):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.flatten(1), other, rtol=0, atol=2e-6)
        assert optimizers[0].state[one].keys() == {"step", "momentum"}


def test_matrices_are_the_weights_of_layers_large_enough():
    network = build_net(tiny_net(channels=16, text={"width": 16, "length": 5, "vocabulary": 9, "heads": 4}))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    matrices, others = matrices_of(network)
    assert len(matrices) + len(others) == len(names)
    found = {names[id(parameter)] for parameter in matrices}
    assert {"down.0.0.0.conv1.weight", "middle.0.1.qkv.weight", "text.encoder.neighbours.weight"} <= found
    assert "text.encoder.layers.layers.0.self_attn.in_proj_weight" in found
    assert not found & {
        "label.table",
        "text.encoder.tokens.weight",
        "text.encoder.positions",
        "stem.weight",
        "out.weight",
    }
    assert all(min(parameter.shape[0], parameter[0].numel()) >= SMALLEST for parameter in matrices)


def test_a_training_step_moves_matrices_by_the_size_of_the_learning_rate():
    """An orthogonal update of a matrix [m, n] has norm sqrt(min(m, n)), so 0.2 sqrt(max(m, n)) of it 0.2 sqrt(m n)."""
    training = Training(digits(), tiny_config(optimizer="muon", net=tiny_net(channels=16), warmup=0, lr=0.01), None)
    for _ in range(2):  # while later layers are still zero there is no gradient
        training.take_step()
    weight = dict(training.network.named_parameters())["middle.0.0.conv1.weight"]
    before = weight.detach().clone()
    _, _, rate = training.take_step()
    assert (weight - before).detach().norm() / (rate * 0.2 * weight.numel() ** 0.5) == pytest.approx(0.9, abs=0.25)
