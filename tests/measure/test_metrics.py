"""One place for names, units and directions of metrics."""

import pytest

from fairlead.core.errors import UsageError
from fairlead.measure.agreement import AGREEMENT
from fairlead.measure.comparison import METRICS as OF_FOLDERS
from fairlead.measure.metrics import Estimate, check_distance, maximised, shown_as, title_of
from fairlead.measure.score import METRICS


def test_no_two_metrics_share_a_name() -> None:
    keys = list(dict.fromkeys([*METRICS, *OF_FOLDERS, *AGREEMENT, "rows"]))
    assert len({title_of(key) for key in keys}) == len(keys)
    assert (title_of("distance"), title_of("distance_debiased")) == ("raw distance", "debiased distance")
    assert (title_of("distance", "FID"), title_of("distance_debiased", "FID")) == ("raw FID", "debiased FID")


def test_distances_saturation_and_rows_are_to_be_low_and_adherence_high() -> None:
    low = {key for key in [*METRICS, *OF_FOLDERS, *AGREEMENT, "rows"] if not maximised(key)}
    assert low - {"diversity"} == {"distance", "distance_debiased", "kid", "cmmd", "saturation", "rows"}


def test_shares_are_said_in_percent_with_the_digits_of_the_table() -> None:
    assert shown_as("accuracy", Estimate(0.9981, 0.0014, 9)) == "99.81 ± 0.14 %"
    assert shown_as("agreement_ink", Estimate(0.5, 0.1, 9)) == "50 ± 10 %"
    assert shown_as("distance", Estimate(3.11, 0.27, 9)) == "3.11 ± 0.27"


def test_a_search_is_told_which_distance_it_can_have() -> None:
    with pytest.raises(UsageError, match=r"constraint 'distance <= 3': the raw distance .* write distance_debiased"):
        check_distance("distance", "constraint 'distance <= 3'")
    check_distance("distance_debiased", "--objective")
