"""Shared by all tests: no hub, one torch thread (two busy threads make small eigh calls crawl), repeatable draws."""

import atexit
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
if "FAIRLEAD_CACHE" not in os.environ:  # decoded images of tests are gone with them
    os.environ["FAIRLEAD_CACHE"] = tempfile.mkdtemp(prefix="fairlead-tests-")
    atexit.register(shutil.rmtree, os.environ["FAIRLEAD_CACHE"], ignore_errors=True)

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
