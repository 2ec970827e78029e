"""A compiled network computes what it did, under the names that it had, and still says what is recorded of it."""

from collections.abc import Iterator
from functools import partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from fairlead.core.condition import Condition, Perturbation
from fairlead.nets.blocks import INTERNAL, attention_mass
from fairlead.nets.build import build_net, net_config
from fairlead.nets.compiling import compile_in_place, compiled_twin, no_compiler


def network(**changes) -> nn.Module:
    torch.manual_seed(0)
    net = build_net(net_config("8x8", 1, 8, 10, channels=8, embed=16, **changes)).eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(n)
    keep = torch.rand(n, generator=generator) > 0.3
    condition = Condition(n, {"label": torch.arange(n) % 10}, {"label": keep})
    return torch.randn(n, 1, 8, 8, generator=generator), torch.rand(n, generator=generator) * 1000, condition


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Graphs are taken as by the compiler, counted, and run as they are: to the bit what the network does."""
    torch.compiler.reset()
    counter = CompileCounter()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter))
    yield counter
    torch.compiler.reset()


def test_a_network_is_one_graph_then_one_of_any_number_of_rows(counter: CompileCounter) -> None:
    plain = network()
    twin = compiled_twin(plain)
    graphs = []
    for n in (4, 4, 6, 5, 9):
        assert torch.equal(twin(*inputs(n)), plain(*inputs(n)))
        graphs.append(counter.frame_count)
    assert graphs == [1, 1, 2, 2, 2]


def test_a_twin_has_the_weights_and_the_network_stays_as_it_is(counter: CompileCounter) -> None:
    plain = network()
    twin = compiled_twin(plain)
    plain(*inputs(4))
    assert counter.frame_count == 0
    assert list(twin.state_dict()) == list(plain.state_dict())
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(twin.parameters(), plain.parameters(), strict=True))
    before = twin(*inputs(4))
    nn.init.normal_(plain.get_parameter("out.weight"))
    assert torch.equal(twin(*inputs(4)), plain(*inputs(4)))
    assert not torch.equal(twin(*inputs(4)), before)


def test_perturbed_rows_are_compiled_too(counter: CompileCounter) -> None:
    plain = network()
    twin = compiled_twin(plain)
    x, time, condition = inputs(4)
    worse = condition.perturbed(Perturbation("identity_attention", ("middle.0",)), torch.tensor([1, 0, 1, 0]).bool())
    assert torch.equal(twin(x, time, worse), plain(x, time, worse))
    assert not torch.equal(twin(x, time, worse), twin(x, time, condition))
    assert counter.frame_count == 2


def test_what_is_recorded_is_recorded_uncompiled(counter: CompileCounter) -> None:
    plain = network(internal=True)
    twin = compiled_twin(plain)
    found = []
    for net in (plain, twin):
        with attention_mass(("middle.0", INTERNAL)) as recorded:
            net(*inputs(4))
        found.append([recorded["middle.0"], recorded[INTERNAL]])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert counter.frame_count == 0


def test_without_a_compiler_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/there/is/no/compiler",))
    torch.compiler.reset()
    reason = no_compiler.__wrapped__("cpu")
    assert "compiler" in reason
    assert "\n" not in reason


@pytest.mark.slow
def test_a_compiled_network_and_its_gradients_are_equal_to_rounding() -> None:
    if reason := no_compiler("cpu"):
        pytest.skip(reason)
    nets = [network().requires_grad_(True) for _ in range(2)]
    compile_in_place(nets[1])
    outputs = [net(*inputs(4)) for net in nets]
    for output in outputs:
        output.square().mean().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    for (name, a), (other, b) in zip(nets[0].named_parameters(), nets[1].named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-7)
