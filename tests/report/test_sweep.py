"""The page of a sweep: the rule that recommends a setting, what is said of it, curves, differences."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D

from fairlead.measure.metrics import Estimate, title_of
from fairlead.measure.score import METRICS, Difference, Floor
from fairlead.report.curves import curves_of, curves_plot, form_of, front_plot
from fairlead.report.page import Table, difference_tables
from fairlead.report.sweep_page import sweep_findings, sweep_page, sweep_plot
from fairlead.tune.constraint import Constraint
from fairlead.tune.recommend import Choice, choice_for, recommend_swept, recommendation_text
from fairlead.tune.setting import Point
from tests.tune.made import floor, point


def chosen(points: list[Point]) -> Point:
    best = recommend_swept(points).point
    assert best is not None
    return best


def said(points: list[Point], real: Floor) -> tuple[Point, str]:
    return chosen(points), sweep_findings(points, real, recommend_swept(points))


def places(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def test_the_rule_takes_the_smallest_distance_among_the_accurate() -> None:
    points = [point("cfg(1)", 1, 0.95), point("cfg(1.5)", 2, 0.992), point("cfg(2)", 3, 1.0)]
    assert chosen(points).guidance == "cfg(1.5)"
    assert chosen(points[:1]).guidance == "cfg(1)"
    assert chosen([point("a", 1, 0.5), point("b", 9, 0.7)]).guidance == "b"


def test_where_the_judge_misses_real_images_their_share_is_enough() -> None:
    points = [point("cfg(1)", 1, 0.61), point("cfg(2)", 2, 0.91), point("cfg(4)", 4, 0.96), point("cfg(9)", 9, 0.985)]
    missed = replace(floor(), metrics={**floor().metrics, "accuracy": Estimate(0.891, 0.004, 5000)})
    found = recommend_swept(points, missed)
    assert found.point is points[1]
    assert "among settings with an accuracy of at least 89.1%, that of the real images" in found.text
    assert recommend_swept(points, floor()).point is points[3]  # real ones at 99.7 %: none reaches 99 %
    assert choice_for(points, (), missed).text == found.text


def prompted(guidance: str, cosine: float, **metrics: float) -> Point:
    made = point(guidance, 1.0, 1.0)
    values = {"cosine": cosine, "saturation": 0.1, **metrics}
    score = replace(made.score, metrics={name: Estimate(value, 0.01, 60) for name, value in values.items()})
    return replace(made, score=score)


def test_by_prompts_alone_it_takes_the_nearest_of_those_with_nine_tenths_of_the_gain() -> None:
    """0.9 (0.30 - 0.20) above no guidance is 0.29; the unconditional setting below it does not count."""
    cosines = {"cfg(0)": 0.05, "cfg(1)": 0.20, "cfg(2)": 0.288, "cfg(4)": 0.292, "cfg(6)": 0.30, "cfg(9)": 0.295}
    near = dict(zip(cosines, (9.0, 5.0, 2.0, 3.0, 4.0, 6.0), strict=True))
    points = [prompted(name, cosine, distance_debiased=near[name]) for name, cosine in cosines.items()]
    assert chosen(points).guidance == "cfg(4)"
    assert (
        "the smallest debiased distance among settings with 90% of the highest gain in CLIP cosine over no guidance"
        in (recommend_swept(points).text)
    )
    varied = [prompted(name, cosine, diversity=near[name]) for name, cosine in cosines.items()]
    assert chosen(varied).guidance == "cfg(9)"
    assert "the highest diversity among" in recommend_swept(varied).text
    plain = [prompted(name, cosine, saturation=near[name] / 10) for name, cosine in cosines.items()]
    assert chosen(plain).guidance == "cfg(4)"
    assert "the least saturation among" in recommend_swept(plain).text
    guided = recommend_swept(points[2:])  # 0.288 is the lowest: 0.2988 is nine tenths of the way
    assert (guided.point is points[4], "over the lowest" in guided.text) == (True, True)


def test_findings_say_the_ratio_to_real_images_and_the_rule() -> None:
    best, text = said([point("cfg(1)", 4, 0.95, 20), point("cfg(2)", 2, 0.995)], floor(2.0))
    assert best.guidance == "cfg(2)"
    assert "99.5 ± 1.0 %" in text
    assert "1.50 times that of held-out real images" in text
    assert "at 20 instead of 40 network rows per image" in text
    assert "at least 99%" in text
    _, text = said([point("cfg(1)", 4, 0.95)], floor())
    assert "No setting reaches" in text


def test_findings_and_report_say_the_difference_and_whether_it_is_paired() -> None:
    plain = point("cfg(1)", 4, 0.95, 20)
    change = {"distance": Difference(-2.0, 0.5, 60, True), "accuracy": Difference(0.045, 0.01, 60, False)}
    points = [plain, replace(point("cfg(2)", 2, 0.995), baseline=plain.setting, differences=change)]
    _, text = said(points, floor())
    assert "The raw distance is 2.00 ± 0.50 less than without guidance (paired, same seeds)." in text
    [table] = difference_tables(points, [each.guidance for each in points], {m: title_of(m) for m in METRICS})
    assert isinstance(table, Table)
    assert list(table.rows) == [["cfg(2)", "-2.00 ± 0.50", "+0.045 ± 0.010 *"]]
    assert "difference to cfg(1), same seeds" in table.caption
    assert "* not paired" in table.caption

    more = {"distance": Difference(2.0, 0.5, 60, False)}
    _, text = said([plain, replace(points[1], differences=more)], floor())
    assert "2.00 ± 0.50 more than without guidance (not paired: the variances of both add" in text


def test_without_guidance_means_the_same_checkpoint_sampler_and_steps() -> None:
    points = [
        point("cfg(1)", 4, 0.9, steps=10, rows=10),
        point("cfg(1)", 3, 0.9, steps=20, rows=20),
        point("cfg(2)", 2, 0.995, steps=20, rows=40),
    ]
    _, text = said(points, floor())
    assert text.startswith("Recommended: cfg(2), 20 steps, the smallest debiased distance among settings with an")
    assert "at 20 instead of 40 network rows" in text
    assert "Without guidance" not in said([points[0], points[2]], floor())[1]


@pytest.mark.parametrize(
    ("guidance", "form", "scale"),
    [
        ("cfg(3)", "cfg({scale})", 3),
        ("none", "cfg({scale})", 1),
        ("none | clip()", "cfg({scale}) | clip()", 1),
        ("apg(cfg(1.5), norm=2.5)", "apg(cfg({scale}), norm=2.5)", 1.5),
        ('cfg(2, negative="7")', 'cfg({scale}, negative="7")', 2),
        ('compose({"7": 4, "1": -2})', 'compose({"7": {scale}, "1": -2})', 4),
        ("cfg(1e-05)", "cfg({scale})", 1e-5),
        ("cfgpp(-0.5)", "cfgpp({scale})", -0.5),
    ],
)
def test_the_form_of_a_guidance_is_all_but_its_first_number(guidance: str, form: str, scale: float) -> None:
    assert form_of(guidance) == (form, scale)


def test_a_curve_for_each_checkpoint_sampler_steps_and_form() -> None:
    points = [
        point(guidance, 3, 0.9, sampler=sampler)
        for sampler in ("ddim", "heun")
        for guidance in ("cfg(3)", "none", "cfg(2) | clip()", "cfg(4) | clip()")
    ]
    points.append(point("cfg(2) + pag(1)", 3, 0.9))
    curves = curves_of(points)
    assert [(curve.label, curve.scales) for curve in curves] == [
        ("cfg(w), ddim", (1, 3)),
        ("cfg(w) | clip(), ddim", (2, 4)),
        ("cfg(w), heun", (1, 3)),
        ("cfg(w) | clip(), heun", (2, 4)),
    ]
    alone = curves_of(points, alone=True)
    assert [curve.label for curve in alone if not curve.scales] == ["cfg(2) + pag(1), ddim"]
    assert sum(len(curve.points) for curve in alone) == len(points)
    figure = curves_plot(curves, floor().metrics)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in panels] == ["debiased Fréchet distance", "accuracy of the judge", "diversity"]
    drawn = [places(bars[0]) for bars in panels[0].containers if isinstance(bars, ErrorbarContainer)]
    assert drawn == [[(1, 3), (3, 3)], [(2, 3), (4, 3)]] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [curve.label for curve in curves]


def test_the_front_draws_every_setting_with_bars_and_rings_the_recommended() -> None:
    points = [point("cfg(1)", 4, 0.95), point("cfg(2)", 2, 0.995), point("pag(1)", 3, 0.97)]
    points.append(point("cfg(0)", 90, 0.1, rows=20))
    figure = front_plot(curves_of(points, alone=True), floor().metrics, points[1], {points[0].setting})
    for axes, name in zip(figure.axes, ("accuracy", "rows"), strict=True):
        bars = [bars for bars in axes.containers if isinstance(bars, ErrorbarContainer)]
        at = {}
        for each in bars:
            at[places(each[0])[0]] = each[0].get_markerfacecolor() == "white"
            assert (each.has_xerr, each.has_yerr) == (True, name == "accuracy")
        heights = {
            each: each.score.metrics["accuracy"].value if name == "accuracy" else each.rows_per_image for each in points
        }
        shown = points[:3] if name == "accuracy" else points  # cfg(0) is far below half of the best accuracy
        assert at == {
            (each.score.metrics["distance_debiased"].value, heights[each]): each is points[0] for each in shown
        }
        rings = [line for line in axes.get_lines() if line.get_markersize() == 15]
        assert [places(ring) for ring in rings] == [[(2, heights[points[1]])]]
    assert figure.axes[0].get_xscale() == "symlog"  # 2 to 90
    assert "left out on the left: 1 setting below 50 % accuracy" in figure._supxlabel.get_text().replace("\n", " ")  # type: ignore[attr-defined]


def test_one_curve_of_plain_guidance_keeps_its_own_plot_and_one_point_has_none() -> None:
    points = [point("cfg(1)", 4, 0.95), point("cfg(2)", 2, 0.995)]
    figure = sweep_plot(points, floor(), chosen(points))
    assert figure is not None
    assert figure.axes[0].get_title(loc="left") == "Over the guidance scale"
    assert sweep_plot(points[:1], floor(), points[0]) is None


def test_the_page_says_what_is_left_what_is_shared_and_how_to_repeat_it(tmp_path: Path) -> None:
    points = [point(f"cfg({scale})", 4 - scale, 0.99, steps=steps) for steps in (5, 10) for scale in (1, 2)]
    about = {
        "settings": [asdict(each.setting) for each in points] + [{}],
        "models": {"runs/a": {"data": "digits", "weights_hash": "abc"}},
        "shared": {"n": 60, "seed": 0},
        "classes": ["zero"],
        "floor": asdict(floor()),
        "commands": ["fairlead sweep runs/a", "fairlead sweep runs/a --steps 5 10"],
    }
    beaten = {each.setting: (points[0].setting,) if each is points[3] else () for each in points}
    page = sweep_page(tmp_path / "report.html", about, points, recommend_swept(points), (), beaten).read_text()
    assert "3 of 4 settings are on the front" in page
    assert "<td>on it</td>" in page
    assert "beaten by cfg(1), 5 steps" in page
    assert "1 of 5 settings are not measured yet" in page
    assert "fairlead sweep runs/a\nfairlead sweep runs/a --steps 5 10" in page
    for text in ("cfg(2), 10 steps", "abc", "Guidance on digits"):
        assert text in page
    assert page.count("<svg") == 2
    assert page.count("data:image/png;base64,") == 1


def test_many_settings_show_no_guidance_the_recommended_and_the_front_on_top_and_all_at_the_end(tmp_path: Path) -> None:
    points = [point(f"cfg({scale})", abs(scale - 3) + 1, 0.99) for scale in range(12)]
    about = {
        "settings": [asdict(each.setting) for each in points],
        "models": {"runs/a": {}},
        "shared": {"n": 60},
        "classes": ["zero"],
        "floor": asdict(floor()),
        "commands": [],
    }
    beaten = {each.setting: () if each.guidance == "cfg(2)" else (points[3].setting,) for each in points}
    page = sweep_page(tmp_path / "report.html", about, points, recommend_swept(points), (), beaten).read_text()
    assert "Here are 3 of 12 settings" in page  # 1: no guidance, 3: recommended, 2: on the front
    top, end = page.split("The trade-off")
    assert top.count("data:image/png") == 1
    assert "<summary>The same noise under all settings</summary>" in end
    assert end.count("data:image/png") == 1


def answer(guidance: str, sampler: str = "ddim") -> dict[str, object]:
    return {
        "model": "runs/a", "guidance": guidance, "sampler": sampler, "steps": 20, "why": "lowest loss", "best": None,
        "settings": [], "images": 1, "notes": [], "constraints": [],
    }  # fmt: skip


def test_a_search_is_found_among_the_points_however_its_sampler_was_written(tmp_path: Path) -> None:
    points = [point("cfg(1)", 4, 0.995), point("cfg(1.5)", 2, 0.985)]
    assert recommend_swept(points).point is points[0]
    assert choice_for(points).text == recommend_swept(points).text
    found = choice_for(points, [answer("cfg(1.5)", " ddim( )"), answer("cfg(1)")])
    assert (found.point, found.text) == (points[1], "Recommended: cfg(1.5), the lowest loss.")


def test_where_the_search_recommends_what_the_page_has_not_measured_nothing_else_is_recommended(tmp_path: Path) -> None:
    points = [point("cfg(1)", 4, 0.995), point("cfg(1.5)", 2, 0.985)]
    choice = choice_for(points, [answer("cfg(1.42)")])
    assert choice.point is None
    about = {
        "settings": [asdict(each.setting) for each in points], "models": {"runs/a": {}}, "shared": {"n": 60},
        "classes": ["zero"], "floor": asdict(floor()), "commands": [],
    }  # fmt: skip
    beaten = {each.setting: () for each in points}
    page = sweep_page(tmp_path / "report.html", about, points, choice, (), beaten, features=64).read_text()
    assert page.count("Recommended: ") == 1
    assert "Recommended: cfg(1.42), the lowest loss. It is not among the settings that are measured here." in page
    assert 'class="chosen"' not in page
    figure = sweep_plot(points, floor(), choice.point)
    assert figure is not None
    assert not [line for axes in figure.axes for line in axes.get_lines() if line.get_markersize() == 15]


def test_what_a_search_recommends_is_the_only_recommendation_of_its_page(tmp_path: Path) -> None:
    points = [point("cfg(1)", 4, 0.995), point("cfg(1.5)", 2, 0.985), point("cfg(2)", 3, 1.0)]
    by_rule = said(points, floor())[1]
    assert by_rule.startswith("Recommended: cfg(2), the smallest debiased distance among settings with an accuracy")
    rules = (Constraint.parse("accuracy >= 0.99"),)
    choice = Choice(recommendation_text("cfg(1.5)", "cheapest of 2 settings"), points[1], True, rules)
    text = sweep_findings(points, floor(), choice)
    assert text.startswith(
        "Recommended: cfg(1.5), the cheapest of 2 settings. It was chosen on the seeds of the search"
    )
    assert "On these seeds accuracy >= 0.99 does not hold: it is 98.5 ± 1.0 %." in text
    about = {
        "settings": [asdict(each.setting) for each in points], "models": {"runs/a": {}}, "shared": {"n": 60},
        "classes": ["zero"], "floor": asdict(floor()), "commands": [],
    }  # fmt: skip
    beaten = {each.setting: () for each in points}
    page = sweep_page(tmp_path / "report.html", about, points, choice, (), beaten, features=64).read_text()
    assert page.count("Recommended: ") == 1
    assert "Best" not in page
    assert page.count('<tr class="chosen"><th scope="row">cfg(1.5)</th>') == 2
    assert page.count('class="chosen"') == 2
    assert "Few images for features of 64 dimensions: 60 where 256 are wanted; no more images than features" in page
    figure = sweep_plot(points, floor(), points[1])
    assert figure is not None
    rings = [line for axes in figure.axes for line in axes.get_lines() if line.get_markersize() == 15]
    assert [places(ring) for ring in rings] == [[(2, 9)]]


def test_raw_and_debiased_distance_never_share_a_name_on_the_page(tmp_path: Path) -> None:
    points = [point("cfg(1)", 4, 0.95), point("cfg(2)", 2, 0.995)]
    about = {
        "settings": [asdict(each.setting) for each in points], "models": {"runs/a": {}}, "shared": {"n": 60},
        "classes": ["zero"], "floor": asdict(floor()), "commands": [],
    }  # fmt: skip
    beaten = {each.setting: () for each in points}
    page = sweep_page(tmp_path / "report.html", about, points, recommend_swept(points), (), beaten).read_text()
    words = re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL)
    bare = re.findall(r"(?<!raw )(?<!debiased )(?<!L2 )(?<!Fréchet )distance\b.{0,30}", words, flags=re.IGNORECASE)
    assert bare == []
