"""Plans: ordered sets of edits for one network, written down, and applied."""

from delayer.cutting.applying import apply, apply_, edit_modules_, fit_edits_
from delayer.cutting.by_hand import plan_by_hand
from delayer.cutting.plan import Plan, parse_rows, read_plan

__all__ = ["Plan", "apply", "apply_", "edit_modules_", "fit_edits_", "parse_rows", "plan_by_hand", "read_plan"]
