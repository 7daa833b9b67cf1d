"""The network before and after as SVG: removed blocks are ghosts, a wedge leads to what stands in for them.

Long networks are broken into rows, never inside a removed span. Colours are the page's, except an operator's.
"""

from html import escape
from itertools import pairwise
from math import ceil

from delayer.report.cuts import Choice, Cut
from delayer.report.formats import count
from delayer.study import BlockInfo, ChainInfo

_HEIGHT, _WEDGE, _TOP, _GAP, _PAD = 40, 40, 20, 18, 2
"""Of a block, of the wedges between before and after, above a row, between rows, left of a row; pixels."""


def drawing(chain: ChainInfo, choice: Choice, *, width: int, per_row: int) -> str:
    """An SVG of at most `width` pixels, with up to about `per_row` blocks a row."""
    rows = rows_of(len(chain.blocks), choice, per_row)
    longest = max(stop - start for start, stop in rows)
    cell = min((width - 2 * _PAD) / longest, 92)
    across = 2 * _PAD + cell * longest
    row_height = _TOP + _HEIGHT + (_WEDGE + _HEIGHT if choice.cuts else 0) + _GAP
    parts = [_row(chain, choice, start, stop, cell, i * row_height) for i, (start, stop) in enumerate(rows)]
    tall = row_height * len(rows) - _GAP + 4
    kept = len(chain.blocks) - sum(stop - start for _, start, stop in choice.spans)
    title = f"{len(chain.blocks)} blocks before, {kept} of them after"
    return (
        f'<svg class="network" viewBox="0 0 {across:.1f} {tall}" width="{across:.0f}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg>'
    )


def rows_of(num_blocks: int, choice: Choice, per_row: int) -> list[tuple[int, int]]:
    """Runs of about equal length, about `per_row` blocks or fewer, broken where no removed span is torn."""
    torn = {block for _, start, stop in choice.spans for block in range(start + 1, stop)}
    whole = [block for block in range(num_blocks + 1) if block not in torn]
    num_rows = ceil(num_blocks / per_row)
    even = [i * num_blocks / num_rows for i in range(num_rows + 1)]
    return list(pairwise(sorted({min(whole, key=lambda b: abs(b - wish)) for wish in even})))


def _row(chain: ChainInfo, choice: Choice, start: int, stop: int, cell: float, top: float) -> str:
    """One row: blocks before, wedges, blocks after; segments are named above where there are several."""
    before, after = top + _TOP, top + _TOP + _HEIGHT + _WEDGE
    gone = {first: (cut, first, last) for cut, first, last in choice.spans if start <= first < stop}
    stay = [cut for cut in choice.cuts if not cut.removes]
    inside = {block: cut for cut in stay for a, z in cut.edit.spans for block in range(a, z)}
    back, front = [], []
    x = new = _PAD
    block = start
    while block < stop:
        cut, _, last = gone.get(block, (None, block, block + 1))
        wide = cell * (last - block)
        kind = "ghost" if cut else "block"
        for i in range(block, last):
            front.append(_block(chain.blocks[i], x + cell * (i - block), before, cell, kind))
        if choice.cuts:
            colour = choice.colours[cut.operator] if cut else ""
            back.append(_wedge(x, wide, new, cell, before + _HEIGHT, colour))
            if cut:
                front.append(_stand_in(cut, choice, new, after, cell))
                front.append(_tag(cut, (x + wide / 2 + new + cell / 2) / 2, before + _HEIGHT + _WEDGE / 2))
            else:
                front.append(_block(chain.blocks[block], new, after, cell, "block"))
                if block in inside:
                    front.append(_tag(inside[block], new + cell / 2, after))
        x, new, block = x + wide, new + cell, last
    lines = [_line(before, x)] + [_line(after, new)] * bool(choice.cuts) if cell >= 24 else []
    names = [_segment(chain, a, z, start, stop, cell, top) for a, z in chain.segments]
    return "".join(back + lines + front + (names if len(chain.segments) > 1 else []))


def _line(y: float, right: float) -> str:
    """The stream that runs through all blocks."""
    return f'<line class="stream" x1="0" x2="{right:.1f}" y1="{y + _HEIGHT / 2}" y2="{y + _HEIGHT / 2}"/>'


def _block(block: BlockInfo, x: float, y: float, cell: float, kind: str) -> str:
    """A rectangle; a funnel where the width changes."""
    gap = min(4, cell / 8)
    left, right, slant = x + gap / 2, x + cell - gap / 2, 7
    into = slant if block.in_width < block.out_width else 0
    out = slant if block.in_width > block.out_width else 0
    round_ = min(7, cell / 6)
    shape = f'<rect x="{left:.1f}" y="{y}" width="{right - left:.1f}" height="{_HEIGHT}" rx="{round_:.1f}"/>'
    if into or out:
        corners = ((left, y + into), (right, y + out), (right, y + _HEIGHT - out), (left, y + _HEIGHT - into))
        shape = f'<polygon points="{" ".join(f"{a:.1f},{b}" for a, b in corners)}"/>'
    x, name, roomy = x + cell / 2, str(block.index), cell >= 56
    font = min(12, max((cell - 7) / (0.62 * len(name)), 7))
    text = f'<text x="{x:.1f}" y="{y + (18 if roomy else 24)}" style="font-size:{font:.1f}px">{name}</text>'
    if roomy:
        text += f'<text class="small" x="{x:.1f}" y="{y + 32}">{count(block.params)}</text>'
    macs = "" if block.macs is None else f", {count(block.macs)} multiply-adds"
    title = f"block {block.index}: {block.path} ({block.kind}), {count(block.params)} parameters{macs}"
    return f'<g class="{kind}"><title>{escape(title)}</title>{shape}{text}</g>'


def _wedge(x: float, wide: float, new: float, cell: float, y: float, colour: str) -> str:
    """What leads from a place before to its place after: grey from a block, coloured from a removed span."""
    low, middle = y + _WEDGE, y + _WEDGE / 2
    a, b, c, d = x + 2, new + 2, new + cell - 2, x + wide - 2
    path = (
        f"M{a:.1f},{y} C{a:.1f},{middle} {b:.1f},{middle} {b:.1f},{low} "
        f"L{c:.1f},{low} C{c:.1f},{middle} {d:.1f},{middle} {d:.1f},{y} Z"
    )
    style = f' style="fill:{colour};opacity:.38"' if colour else ""
    return f'<path class="wedge" d="{path}"{style}/>'


def _stand_in(cut: Cut, choice: Choice, x: float, y: float, cell: float) -> str:
    """A filled pill, or a dashed empty one where nothing stands in."""
    colour, empty, gap = choice.colours[cut.operator], cut.operator == "drop", min(4, cell / 8)
    style = f"stroke:{colour};stroke-dasharray:3 3" if empty else f"fill:{colour};stroke:{colour}"
    word = cut.operator if 6.8 * len(cut.operator) < cell - 12 else cut.letter
    return (
        f'<g class="standin"><title>{escape(f"{cut.letter}: {cut.edit.label}")}</title>'
        f'<rect x="{x + gap / 2:.1f}" y="{y + 6}" width="{cell - gap:.1f}" height="{_HEIGHT - 12}" '
        f'rx="{min(14, cell / 3):.1f}" style="{style}"/><text class="{"" if empty else "on"}" '
        f'x="{x + cell / 2:.1f}" y="{y + _HEIGHT / 2 + 4}">{escape(word)}</text></g>'
    )


def _tag(cut: Cut, x: float, y: float) -> str:
    """The letter under which the table below tells more."""
    title = escape(f"{cut.letter}: {cut.edit.label}")
    return (
        f'<g class="tag"><title>{title}</title><circle cx="{x:.1f}" cy="{y}" r="9"/>'
        f'<text x="{x:.1f}" y="{y + 4}">{cut.letter}</text></g>'
    )


def _segment(chain: ChainInfo, a: int, z: int, start: int, stop: int, cell: float, top: float) -> str:
    """A thin line over a run of blocks that may be cut together, with its width."""
    a, z = max(a, start), min(z, stop)
    if a >= z:
        return ""
    left, right = _PAD + cell * (a - start) + 2, _PAD + cell * (z - start) - 2
    name = f"width {chain.blocks[a].out_width}"
    text = f'<text class="small segment" x="{left:.1f}" y="{top + 10}">{name}</text>'
    return f'<line class="segment" x1="{left:.1f}" x2="{right:.1f}" y1="{top + 15}" y2="{top + 15}"/>' + (
        text if right - left > 6 * len(name) else ""
    )
