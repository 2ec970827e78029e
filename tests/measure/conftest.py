"""The classifiers of the digits, trained once per run of the tests."""

import pytest

from fairlead.data.digits import load_digits
from fairlead.measure.judge import cached_classifier


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="session")
def judge(cache):
    return cached_classifier(load_digits("train"), "judge", cache)


@pytest.fixture(scope="session")
def extractor(cache):
    return cached_classifier(load_digits("train"), "features", cache)
