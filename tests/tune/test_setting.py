"""Settings: what is expanded and refused, what they are called, what each is compared with."""

import pytest

from fairlead.core.errors import UsageError
from fairlead.tune.setting import Setting, all_settings, baselines, expand, scale_of, setting_labels


def test_templates_are_filled_in_order_and_normalised() -> None:
    filled = expand(["cfg({scale})", "cfg({scale}) | clip()"], [0, 1.5])
    assert filled == ["cfg(0)", "cfg(1.5)", "cfg(0) | clip()", "cfg(1.5) | clip()"]
    assert expand(["cfg( 2.0 )"], []) == ["cfg(2)"]


@pytest.mark.parametrize(
    ("templates", "scales", "message"),
    [
        (["cfg(3)"], [1.0], "are not used: write {scale}"),
        (["cfg({scale})"], [2.0, 2.0], "cfg(2) would be measured twice"),
        (["cfg({scale})", "cfg(2.0)"], [2.0], "cfg(2) would be measured twice"),
        (["cgf({scale})"], [2.0], "did you mean 'cfg'"),
        (["cfg({scale})", "cfg(2)"], [], "nothing to measure"),
        ([], [], "nothing to measure"),
    ],
)
def test_expand_refuses(templates: list[str], scales: list[float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(templates, scales)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("guidance", "scale"),
    [
        ("none", 1.0),
        ("cfg(3)", 3.0),
        ("cfg(3) | clip()", 3.0),
        ('cfg(3, negative="a")', None),
        ("cfg(3).during(t=(0, 0.5))", None),
        ("cfg(2) + cfg(2)", None),
        ("cfg([1, 2])", None),
    ],
)
def test_only_plain_cfg_lies_on_the_axis_of_scales(guidance: str, scale: float | None) -> None:
    assert scale_of(guidance) == Setting("a", guidance).scale == scale


def test_settings_are_the_product_of_the_axes() -> None:
    found = all_settings(["a", "b"], ["cfg(1)", "cfg(2)"], ["ddim( eta=0.0 )", "heun"], [5])
    assert [(s.checkpoint, s.sampler, s.guidance) for s in found] == [
        (c, s, g) for c in "ab" for s in ("ddim", "heun") for g in ("cfg(1)", "cfg(2)")
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (([], ["cfg(1)"], ["ddim"], [5]), "at least one checkpoint"),
        ((["a"], ["cfg(1)"], ["ddim", "ddim(eta=0)"], [5]), "ddim would be measured twice; give each sampler once"),
        ((["a"], ["cfg(1)"], ["ddim"], [5, 5]), "5 would be measured twice"),
        ((["a", "a"], ["cfg(1)"], ["ddim"], [5]), "a would be measured twice"),
        ((["a"], ["cfg(1)"], ["dddim"], [5]), "did you mean 'ddim'"),
    ],
)
def test_an_axis_is_refused(axes: tuple[list[str], list[str], list[str], list[int]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        all_settings(*axes)
    assert message in str(caught.value)


def test_a_setting_is_called_by_what_varies() -> None:
    assert setting_labels([Setting("a", "cfg(1)")]) == ["cfg(1)"]
    assert setting_labels([Setting("a", "cfg(1)"), Setting("a", "cfg(2)")]) == ["cfg(1)", "cfg(2)"]
    assert setting_labels(all_settings(["a"], ["cfg(1)"], ["ddim", "heun"], [5, 9])) == [
        "ddim, 5 steps",
        "ddim, 9 steps",
        "heun, 5 steps",
        "heun, 9 steps",
    ]


def test_the_baseline_is_scale_one_beside_it_else_the_first_of_all() -> None:
    settings = [
        Setting("a", "cfg(2)", "ddim", 5),
        Setting("a", "none", "ddim", 5),
        Setting("a", "cfg(1) | clip()", "ddim", 5),
        Setting("a", "cfg(2)", "ddim", 9),
        Setting("b", "cfg(1)", "ddim", 5),
    ]
    found = baselines(settings)
    assert [settings.index(found[setting]) for setting in settings] == [1, 1, 1, 0, 4]
