"""What a measured number travels with."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

import delayer


def provenance(seed: int, *libraries: str) -> dict[str, Any]:
    """Seed, versions, machine and threads, as plain data."""
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "seed": seed,
        "delayer": delayer.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", *libraries)},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "num_cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
