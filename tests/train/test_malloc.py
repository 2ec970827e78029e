"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

GIVEN_BACK = """
import torch
from fairlead.train.malloc import keep_freed_memory

if {keep}:
    assert keep_freed_memory()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

tensors = [torch.ones(2**19) for _ in range(64)]  # 128 MiB
full = resident()
del tensors
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
@pytest.mark.parametrize(("keep", "low", "high"), [(True, -1, 10), (False, 100, 140)])
def test_what_is_freed_goes_back_to_the_system_unless_it_is_kept(keep: bool, low: float, high: float) -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK.format(keep=keep)], capture_output=True, check=True)
    assert low <= float(done.stdout) <= high
