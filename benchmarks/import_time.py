"""How long `import delayer` takes beside `import torch`, in fresh processes, in turn.

python benchmarks/import_time.py
"""

import json
import subprocess
import sys
from statistics import median

from provenance import provenance

CODE = "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"


def seconds(name: str) -> float:
    done = subprocess.run([sys.executable, "-c", CODE.format(name)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    seconds("delayer")  # warms the disk's cache
    pairs = [(seconds("torch"), seconds("delayer")) for _ in range(7)]
    ratio = median(b / a for a, b in pairs)
    print(
        json.dumps(
            {
                "torch_s": median(a for a, _ in pairs),
                "delayer_s": median(b for _, b in pairs),
                "ratio": ratio,
                "bound": 1.5,
                **provenance(0),
            }
        )
    )
    sys.exit(ratio > 1.5)


if __name__ == "__main__":
    main()
