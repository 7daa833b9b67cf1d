"""What all tests share: the folder of real weights and data, and Hugging Face kept off the network."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # networks here are tiny: more threads only wait for one another


def pytest_addoption(parser):
    parser.addoption("--data-root", default=os.environ.get("DELAYER_DATA"),
                     help="folder with real weights and data; by default DELAYER_DATA")


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of real weights and data; tests that need it skip without."""
    given = request.config.getoption("--data-root")
    if not given or not Path(given).is_dir():
        pytest.skip("no folder of real data: give --data-root or DELAYER_DATA")
    return Path(given).resolve()
