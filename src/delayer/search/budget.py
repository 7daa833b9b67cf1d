"""What is to be removed: blocks, or a share of the parameters, multiply-adds or latency."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from delayer.errors import BudgetError

Unit = Literal["blocks", "params", "macs", "latency"]


@dataclass(frozen=True)
class Budget:
    """The share or number to remove: `amount` blocks, or a fraction of the network's total of another unit."""

    unit: Unit
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """The budget in "blocks=3", "params=25%", "macs=25%" or "latency=20%". Raises BudgetError otherwise."""
        found = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.]+)\s*(%?)\s*", text)
        unit, number, percent = found.groups() if found else ("", "", "")
        try:
            amount = float(number)
        except ValueError:
            amount = 0.0
        if unit == "blocks" and not percent and amount >= 1 and amount == int(amount):
            return cls("blocks", amount)
        if unit in ("params", "macs", "latency") and percent and 0 < amount < 100:
            return cls(unit, amount / 100)
        raise BudgetError(f"{text!r} is no budget. Write what to remove: blocks=3, params=25%, macs=25% or latency=20%.")

    def target(self, total: Callable[[], float]) -> float:
        """The amount to save in the unit itself; `total` is asked only for shares."""
        return self.amount if self.unit == "blocks" else self.amount * total()

    def __str__(self) -> str:
        return f"{self.amount:g} blocks" if self.unit == "blocks" else f"{100 * self.amount:g} % of {self.unit}"
