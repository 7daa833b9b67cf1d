"""The frozen records that stages exchange, a subject a file, and the study folder that holds them.

Every file is written atomically (a temporary file beside it, then a rename), so a killed run leaves each stage either
done or not begun. One process works in a folder at a time.
"""

from delayer.study.cuts import Candidates, EditInfo, Measured
from delayer.study.files import share_, sync_folder, write_atomically
from delayer.study.folder import Study
from delayer.study.grade import Grade
from delayer.study.nas import NasResults, NasTable, NasTrial, Replay
from delayer.study.network import Asked, BlockInfo, ChainInfo, Provenance, StudyInfo
from delayer.study.plugins import Naming, PlugIn
from delayer.study.reading import as_lines, checksum, parsed, read_bytes, read_json, shortened, whole_lines
from delayer.study.record import Count, Index, Measurement, Record, Seed, Size, first_fault, read_record, record_in
from delayer.study.results import HarnessInfo, LatencyInfo, Measures, OnnxInfo, Proof, Results
from delayer.study.scores import Scan, Score, Scores, SpanDamage
from delayer.study.shrinking import Compared, Comparison, MergeInfo, Round, Shrunk
from delayer.study.sites import SiteInfo, SiteMetricInfo, Sites

__all__ = [
    "Asked",
    "BlockInfo",
    "Candidates",
    "ChainInfo",
    "Compared",
    "Comparison",
    "Count",
    "EditInfo",
    "Grade",
    "HarnessInfo",
    "Index",
    "LatencyInfo",
    "Measured",
    "Measurement",
    "Measures",
    "MergeInfo",
    "Naming",
    "NasResults",
    "NasTable",
    "NasTrial",
    "OnnxInfo",
    "PlugIn",
    "Proof",
    "Provenance",
    "Record",
    "Replay",
    "Results",
    "Round",
    "Scan",
    "Score",
    "Scores",
    "Seed",
    "Shrunk",
    "SiteInfo",
    "SiteMetricInfo",
    "Sites",
    "Size",
    "SpanDamage",
    "Study",
    "StudyInfo",
    "as_lines",
    "checksum",
    "first_fault",
    "parsed",
    "read_bytes",
    "read_json",
    "read_record",
    "record_in",
    "share_",
    "shortened",
    "sync_folder",
    "whole_lines",
    "write_atomically",
]
