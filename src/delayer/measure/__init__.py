"""What a network costs: parameters, multiply-adds, memory, milliseconds; and its export to ONNX."""

from delayer.measure.costs import macs_by_module, num_macs, num_params, peak_memory_mib, size_bytes
from delayer.measure.timing import compare_latency, latency

__all__ = ["compare_latency", "latency", "macs_by_module", "num_macs", "num_params", "peak_memory_mib", "size_bytes"]
