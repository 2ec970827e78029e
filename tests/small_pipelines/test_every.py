"""A guidance attached to a small pipeline of every class that can be made without a hub."""

from __future__ import annotations

import pytest

from tests.small_pipelines.measure import measured
from tests.small_pipelines.table import SMALL
from tests.small_pipelines.test_patterns import assert_short


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_cfg_is_the_own_guidance_of_every_class(name: str) -> None:
    found, refused = measured(name), SMALL[name].refused
    assert found.guides > 1e-4
    assert found.same
    assert_short(found.attached, found.composed, found.apg, found.skipped, found.load)
    if refused:
        assert refused in found.attached
    else:
        assert found.attached == "works"
        assert found.apart is not None
        assert found.apart < 1e-4
