"""The classifiers of the digits, trained once per run of the tests."""

import pytest

from fairlead.data.digits import load_digits
from fairlead.measure.judge import cached_classifier


@pytest.fixture(scope="session")
def judge():
    return cached_classifier(load_digits("train"), "judge")


@pytest.fixture(scope="session")
def extractor():
    return cached_classifier(load_digits("train"), "features")
