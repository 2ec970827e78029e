"""The value of a text condition: packing is exact, pooling finds the true end token."""

import pytest
import torch

from fairlead.nets.packed_text import pack, pooled_at_end, unpack


def test_unpack_undoes_pack_and_padding_is_zero():
    states, pooled = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    real = torch.tensor([[True, True, False], [True, False, False]])
    value = pack(states, real, pooled)
    assert value.shape == (2, 4, 5)
    back, mask, vector = unpack(value)
    assert torch.equal(mask, real)
    assert torch.equal(vector, pooled)
    assert torch.equal(back, states * real[..., None])


def test_a_mixture_of_two_texts_is_real_where_either_is():
    real = torch.tensor([[True, True, False], [True, False, False]])
    value = pack(torch.randn(2, 3, 4), real, torch.randn(2, 4))
    _, mask, _ = unpack(torch.lerp(value[:1], value[1:], 0.25))
    assert mask.tolist() == [[True, True, False]]


def test_pooling_takes_the_first_end_token_that_is_not_the_start():
    """End token 9: padding may be end tokens too, as CLIP's is, and the start token may be one."""
    ids = torch.tensor([[9, 4, 9, 9], [0, 4, 5, 9]])
    states = torch.arange(8.0).reshape(2, 4, 1)
    assert pooled_at_end(states, ids, 9, start=9).tolist() == [[2.0], [7.0]]
    assert pooled_at_end(states, ids, 9, start=0).tolist() == [[0.0], [7.0]]
    with pytest.raises(ValueError, match="row 1 has no end token 4"):
        pooled_at_end(states, torch.tensor([[4, 7, 0, 0], [7, 1, 1, 1]]), 4)
