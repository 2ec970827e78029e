"""What the benchmark of speed counts and in which order it measures."""

import pytest
import torch
from benchmarks.speed import Options, a_training, in_turns, operations, product


def test_actions_are_measured_in_turns_and_each_second_round_backwards() -> None:
    order: list[str] = []
    taken = in_turns([lambda: order.append("a"), lambda: order.append("b")], seconds=0)
    assert "".join(order) == "abab" + "ab" + "ba" + "ab"  # warming up, then three rounds
    assert [len(times) for times in taken] == [2, 2, 2]


def test_operations_of_a_step_are_those_of_its_images() -> None:
    """Twice the images take twice the operations, whatever the precision; backward takes two thirds of a step."""
    counted = [operations(a_training(8, "fp32", Options(batch_size=size))) for size in (2, 4)]
    assert counted[1] == 2 * counted[0]
    assert operations(a_training(8, "bf16", Options(batch_size=2))) == pytest.approx(counted[0], rel=0.02)
    forward = a_training(8, "fp32", Options(batch_size=2))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        forward.network(*forward.feed.of(0).inputs)
    assert counted[0] == pytest.approx(3 * counter.get_total_flops(), rel=0.05)  # the first layer has no input gradient


def test_a_product_counts_a_multiplication_and_an_addition() -> None:
    _, each = product(torch.float32, torch.device("cpu"), size=4)
    assert each == 2 * 4 * 4 * 4
