"""Ours: several activations a round, with the layers behind them where one can go, chosen by the divergence together."""

from functools import cache

from delayer.edits import Edit
from delayer.search.judging import damage_of
from delayer.shrinking.look import Look
from delayer.shrinking.schedules import Chosen, schedule

SAMPLES = 256
"""Validation samples for each measurement."""
BEAM = 3
"""How many of the best left are tried at each step."""
LAYER = 2.0
"""How many times as much an activation may cost that takes a layer with it: alone it saves no time."""
NOTHING = 1e-3
"""Nats that make no difference."""


@schedule("ours", source="delayer", teacher=True, retries=True, a_round=4, warm=True)
def ours(look: Look, most: int) -> Chosen:
    """Grows a set one removal at a time: of those that cost least alone, the one that costs least together.

    An activation becomes its best line; or its whole block becomes one convolution in closed form, where a block of images
    can. Scores of single removals do not add up, so each step measures the whole set on the real network.
    """
    edits: list[Edit] = [*look.convolutions, *(look.edit(site, "affine") for site in look.sites)]
    size = {edit: len(edit.silenced(look.sites)) for edit in edits}
    block = {edit: {site.block for site in look.sites if site.path in edit.silenced(look.sites)} - {None} for edit in edits}
    worth = {edit: size[edit] * (LAYER if edit.spans else 1.0) for edit in edits}

    @cache
    def damage(*chosen: Edit) -> float:
        return damage_of(look.measure(chosen, SAMPLES))

    chosen: tuple[Edit, ...] = ()
    while True:
        room = most - sum(size[edit] for edit in chosen)
        left = [
            edit
            for edit in edits
            if edit not in chosen
            and size[edit] <= room
            and not any((edit.spans or other.spans) and block[edit] & block[other] for other in chosen)
        ]
        if not left:
            break
        first = sorted(left, key=lambda edit: (damage(edit) + NOTHING) / worth[edit])[:BEAM]
        before = damage(*chosen) if chosen else 0.0
        chosen = (*chosen, min(first, key=lambda edit: (max(damage(*chosen, edit) - before, 0.0) + NOTHING) / worth[edit]))
    in_order = sorted(chosen, key=lambda edit: (not edit.spans, edit.spans))
    return in_order, f"divergence {damage(*chosen):.4f} nats together, before training"
