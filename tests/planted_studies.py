"""Studies whose numbers come from formulas, with redundancy planted in known blocks; to test the report."""

import math
from itertools import combinations
from pathlib import Path

from delayer.study import (
    Asked,
    BlockInfo,
    Candidates,
    ChainInfo,
    Compared,
    Comparison,
    EditInfo,
    Grade,
    LatencyInfo,
    Measured,
    Measures,
    MergeInfo,
    OnnxInfo,
    Proof,
    Provenance,
    Results,
    Round,
    Scan,
    Score,
    Scores,
    Shrunk,
    SiteInfo,
    SiteMetricInfo,
    Sites,
    SpanDamage,
    Study,
    StudyInfo,
)

OPERATORS = {("drop", None): 1.0, ("diagonal", None): 0.8, ("low_rank", 32): 0.5, ("low_rank", 64): 0.4, ("affine", None): 0.3}
"""The share of a span's movement that each operator, and rank, misses."""
SOURCE = Provenance(
    delayer="0.1.0",
    versions={"torch": "2.8.0", "python": "3.12.3"},
    machine="x86_64, 2 cores",
    device="cpu",
    threads=2,
    seed=0,
    model_hash="sha256:" + "3f" * 32,
    data_hash="sha256:" + "a1" * 32,
    created="2026-01-31",
)


def vit(folder: Path, **more) -> Study:
    """12 blocks of width 192; blocks 4, 9 and 10 hardly move the stream."""
    edits = (cut(4, 5, "drop"), cut(9, 11, "affine"))
    return write(folder, "deit_tiny_patch16_224", transformer(12), {4: 0.05, 9: 0.08, 10: 0.07}, edits, **more)


def resnet(folder: Path, **more) -> Study:
    """28 blocks in three stages; those that change the width are not removable, and one is changed inside."""
    widths = [16] * 9 + [32] * 9 + [64] * 10
    blocks = tuple(
        BlockInfo(
            index=i,
            path=f"layer{w // 16}.{i % 10}",
            kind="BasicBlock",
            params=18 * w * w,
            macs=4_700_000,
            in_width=widths[max(i - 1, 0)],
            out_width=w,
            removable=i not in (9, 18),
        )
        for i, w in enumerate(widths)
    )
    points, segments = ("in", *map(str, range(28))), ((0, 9), (10, 18), (19, 28))
    chain = ChainInfo(family="cifar_resnet", blocks=blocks, points=points, segments=segments)
    inside = EditInfo(edit="linearise", label="block 7: an activation that never switches", spans=((7, 8),))
    edits = (cut(2, 5, "affine"), cut(12, 14, "low rank 32"), cut(22, 26, "affine"), inside)
    return write(folder, "resnet56", chain, dict.fromkeys((2, 3, 4, 12, 13, 22, 23, 24, 25), 0.06), edits, **more)


def long(folder: Path, **more) -> Study:
    """96 blocks; two of the removed spans lie where rows of equal length would break."""
    edits = (cut(20, 29, "affine"), cut(60, 75, "low rank 32"), cut(90, 91, "drop"))
    quiet = dict.fromkeys((*range(20, 29), *range(60, 75), 90), 0.04)
    return write(folder, "decoder96", transformer(96), quiet, edits, **more)


def transformer(num_blocks: int) -> ChainInfo:
    common = {"kind": "Block", "params": 444_864, "macs": 101_000_000, "in_width": 192, "out_width": 192}
    blocks = tuple(BlockInfo(index=i, path=f"blocks.{i}", removable=True, **common) for i in range(num_blocks))
    points = ("in", *map(str, range(num_blocks)))
    return ChainInfo(family="vit", blocks=blocks, points=points, segments=((0, num_blocks),))


def cut(start: int, stop: int, operator: str) -> EditInfo:
    if operator == "drop":
        return EditInfo(edit="drop_span", label=f"drop {start}:{stop}", spans=((start, stop),))
    return EditInfo(edit="replace_span", label=f"{start}:{stop} → {operator} map", spans=((start, stop),))


def write(
    folder, model, chain, quiet, edits, *, only=None, data=("imagefolder:/a/rather/long/path/to/imagenette_train_1000",)
) -> Study:
    """The whole study, or the files named in `only`, with scores on each data set of `data`.

    quiet: by how much these blocks move the stream; the others move it by about a third.
    """
    steps = [quiet.get(b.index, 0.35 + 0.1 * math.sin(b.index)) + 2 * (b.index == 0) for b in chain.blocks]
    params = 1_250_000 + sum(b.params for b in chain.blocks)
    macs = 46_000_000 + sum(b.macs for b in chain.blocks)
    asked = Asked(model=model, data=data, options={"remove": "blocks=3", "seed": 0, "ridge": None})
    records = {
        "study": StudyInfo(asked=asked, chain=chain, params=params, macs=macs, provenance=SOURCE),
        "scores": scores(chain, steps, data, model),
        "sites": sites(chain, steps),
        "shrink": shrink(chain),
        "compare": compare(params, macs),
        "scan": scan(chain, steps),
        "spans": scan(chain, steps),
        "candidates": candidates(edits, params, macs),
        "results": results(len(chain.blocks), edits, params, macs, model),
    }
    study = Study(folder)
    for name in only or records:
        study.write(name, records[name])
    return study


def graded(value: float, split: str = "validation") -> Grade:
    return Grade(name="top-1 accuracy", unit="%", value=value, higher_is_better=True, split=split, num_samples=500)


def shrink(chain: ChainInfo) -> Shrunk:
    """Three rounds of two activations, the last of which was rolled back."""
    num_sites = 2 * len(chain.blocks)
    rounds = tuple(
        Round(
            number=n,
            sites=(f"{chain.blocks[n].path}.act1", f"{chain.blocks[n].path}.act2"),
            why="entropy 0.04 bits",
            before=graded(75.0 - 8 * n),
            after=graded(75.3 - n * n),
            kept=n < 3,
            epochs=2,
            seconds=61.0,
            left=num_sites - 2 * min(n, 2),
        )
        for n in (1, 2, 3)
    )
    path = chain.blocks[1].path
    merges = (
        MergeInfo(
            path=path,
            layers=("fc1", "act1", "fc2"),
            error=3e-15,
            before_ms=2.0,
            after_ms=1.0,
            speedup=2.0,
            speedup_interval=(1.9, 2.1),
            merged=True,
        ),
        MergeInfo(path=path, layers=("conv1", "conv2"), note="its border would be wrong"),
    )
    edits = tuple(EditInfo(edit="linearise", label=f"{site} → identity", spans=()) for one in rounds[:2] for site in one.sites)
    return Shrunk(
        schedule="ours",
        original=graded(75.3),
        grade=rounds[1].after,
        num_sites=num_sites,
        edits=edits,
        rounds=rounds,
        merges=merges,
        note="The next round was rolled back: 9.00 points, and 5 are allowed.",
    )


def compare(params: int, macs: int) -> Comparison:
    """Two schedules of different worth, two seeds, two points."""
    rows = tuple(
        Compared(
            schedule=name,
            seed=seed,
            num_removed=removed,
            num_epochs=removed // 2,
            seconds=30.0 * removed,
            grade=graded(75.3 - loss * removed - seed, "test"),
            params=params - 1000 * removed,
            macs=macs,
            num_merged=removed // 2,
            latency_ms=4.2 if removed == 4 else None,
            speedup=1.1 if removed == 4 else None,
        )
        for name, loss in (("easier", 2.0), ("ours", 0.5))
        for seed in (0, 1)
        for removed in (2, 4)
    )
    return Comparison(original=graded(75.3, "test"), num_sites=24, params=params, macs=macs, rows=rows)


def sites(chain: ChainInfo, steps: list[float]) -> Sites:
    """One activation a block, which switches as much as the block moves; every other one behind a norm."""
    titles = {"easier": "EASIER entropy", "tlc": "TLC error"}
    found = tuple(
        SiteInfo(
            path=f"{b.path}.act",
            kind="gelu",
            block=b.index,
            num_features=b.in_width,
            positions=4,
            norm=f"{b.path}.norm" if b.index % 2 else None,
            states={"off": 0.5, "on": 0.5},
            values={"easier": min(step, 1.0), "tlc": None if b.index == 1 else step / 5},
        )
        for b, step in zip(chain.blocks, steps, strict=True)
    )
    order = sorted(found, key=lambda site: site.values["easier"])
    ranking = tuple({"path": site.path, "ranks": {"easier": rank}, "mean_rank": rank} for rank, site in enumerate(order, 1))
    metrics = tuple(SiteMetricInfo(name=name, title=title, unit="", source="") for name, title in titles.items())
    return Sites(sites=found, metrics=metrics, ranking=ranking, num_samples=500, batch_size=128, data="imagefolder:photos")


def networks(model: str, data: str) -> tuple[Score, ...]:
    """The study's network between two others; the last was read from one batch."""
    common = {
        "name": "msrs",
        "title": "MSRS",
        "shape": "network",
        "redundant": "high",
        "unit": "of all pairs",
        "source": "planted",
        "rows": "mean",
        "num_samples": 512,
        "seed": 0,
        "data": data,
    }

    def one(name: str, share: float, maximum: int, interval: dict[str, float], **more) -> Score:
        numbers = {"share": share, **interval, "score": share * maximum, "maximum": maximum}
        return Score(**common, model=name, labels=tuple(numbers), values=tuple(numbers.values()), **more)

    return (
        one("deeper_network", 0.52, 276, {"low": 0.49, "high": 0.55}),
        one(model, 0.31, 66, {"low": 0.25, "high": 0.37}),
        one("shallow_network", 0.1, 15, {}, warnings=("Read from one batch, so it has no interval.",)),
    )


def scores(chain: ChainInfo, steps: list[float], data: tuple[str, ...], model: str) -> Scores:
    """A score of each shape on each data set."""
    place = [sum(steps[:i]) for i in range(len(steps) + 1)]
    found = []
    for k, name in enumerate(data):
        apart = [[abs(a - b) * (1 + 0.3 * k) for b in place] for a in place]
        spans = tuple(tuple(d if j > i else None for j, d in enumerate(row)) for i, row in enumerate(apart))
        similar = tuple(tuple(math.exp(-d / 4) for d in row) for row in apart)
        common = {"labels": chain.points, "source": "planted", "num_samples": 500, "seed": 0, "data": name}
        found += [
            Score(
                name="cka", title="Linear CKA", shape="pairs", values=similar, redundant="high", unit="", rows="mean", **common
            ),
            Score(
                name="energy",
                title="Block energy",
                shape="blocks",
                values=tuple(s * s for s in steps),
                redundant="low",
                unit="mean square",
                rows="first",
                **common,
            ),
            Score(
                name="angle",
                title="Angular distance",
                shape="spans",
                values=spans,
                redundant="low",
                unit="half turns",
                rows="last",
                **common,
            ),
        ]
    ranking, num = [], len(steps)
    for i, block in enumerate(sorted(range(num), key=steps.__getitem__)):
        ranks = {"Linear CKA": i + 1, "Block energy": (i * 5) % num + 1}
        mean = sum(ranks.values()) / 2
        ranking.append({"block": block, "path": chain.blocks[block].path, "mean_rank": mean, "ranks": ranks})
    disagreement = "Linear CKA and Block energy disagree about the blocks (rank correlation 0.21)."
    pairs = [{"metric": "Linear CKA", "first": data[0], "second": d, "pearson": 0.98765} for d in data[1:]]
    return Scores(
        scores=found, ranking=ranking, disagreements=(disagreement,), networks=networks(model, data[0]), correlations=pairs
    )


def scan(chain: ChainInfo, steps: list[float]) -> Scan:
    """An error grows with the square of a span's movement; maps add a little of their own."""
    found = []
    spans = (span for low, high in chain.segments for span in combinations(range(low, high + 1), 2))
    for start, stop in spans:
        gone = chain.blocks[start:stop]
        for (operator, rank), missed in OPERATORS.items():
            is_map = operator != "drop"
            residual = missed * sum(steps[start:stop]) ** 2 / 2 + 0.0008 / missed * is_map
            found.append(
                SpanDamage(
                    start=start,
                    stop=stop,
                    operator=operator,
                    options=({"ridge": 0.01} if is_map else {}) | ({"rank": rank} if rank else {}),
                    title=f"{operator} {rank or ''}".replace("_", " ").strip(),
                    residual=residual,
                    residual_fit=0.9 * residual,
                    blocks_saved=stop - start,
                    params_saved=sum(b.params for b in gone) - 37_000 * is_map,
                    macs_saved=sum(b.macs for b in gone),
                )
            )
    return Scan(rows="each:0.25", num_rows_fit=24_625, num_rows_heldout=12_310, spans=tuple(found))


def candidates(edits: tuple[EditInfo, ...], params: int, macs: int) -> Candidates:
    def measured(i: int, share: float, which: tuple[EditInfo, ...], grade: float, **more) -> Measured:
        costs = {"params": round(params * share), "macs": round(macs * share), "latency_ms": 12.4 * share}
        return Measured(edits=which, predicted=0.03 * i, kl=0.045 * i, agreement=96 - i, grade=grade, **costs, **more)

    found = [measured(1, 0.77, edits, 74.8, chosen=True)]
    for i in range(2, 25):
        which = (cut(i % 6, i % 6 + 1 + i % 3, "affine"),)
        found.append(measured(i, 0.95 - 0.25 * (i * 7 % 24) / 24, which, 75 - 0.8 * i + 5 * math.sin(i) ** 2))
    return Candidates(
        grade_name="top-1 accuracy", grade_unit="%", higher_is_better=True, original_grade=76.0, measured=tuple(found)
    )


def results(num_blocks: int, edits: tuple[EditInfo, ...], params: int, macs: int, model: str) -> Results:
    gone = sum(stop - start for edit in edits if edit.edit != "linearise" for start, stop in edit.spans)

    def measures(share: float, blocks: int, value: float, **more) -> Measures:
        grade = Grade(
            name="top-1 accuracy",
            unit="%",
            value=value,
            higher_is_better=True,
            split="test",
            num_samples=1000,
            interval=(value - 2.6, value + 2.5),
            **more,
        )
        costs = {"params": round(params * share), "size_bytes": round(4 * params * share), "macs": round(macs * share)}
        return Measures(**costs, peak_memory_mib=61.5 * share, num_blocks=blocks, grade=grade)

    def latency(engine: str, batch: int, speedup: float, wide: float) -> LatencyInfo:
        ms = 12.4 * batch**0.85
        return LatencyInfo(
            engine=engine,
            batch_size=batch,
            threads=2,
            device="cpu",
            dtype="float32",
            num_rounds=60,
            original_ms=ms,
            original_quartiles_ms=(0.98 * ms, 1.04 * ms),
            cut_ms=ms / speedup,
            cut_quartiles_ms=(0.97 * ms / speedup, 1.03 * ms / speedup),
            speedup=speedup,
            speedup_interval=(speedup - wide, speedup + wide),
        )

    times = (latency("torch", 1, 1.29, 0.03), latency("torch", 16, 1.24, 0.02), latency("onnxruntime", 1, 1.02, 0.04))
    proof = Proof(max_abs_difference=1.9999e-7, max_abs_output=12.3, num_inputs=8, loader="delayer.load", passed=True)
    onnx = OnnxInfo(path="model.onnx", size_bytes=17_600_000, max_abs_difference=4.1e-6, batch_sizes=(1, 4), dynamic=True)
    return Results(
        headline=f"{gone} of {num_blocks} blocks of {model} removed: top-1 accuracy 75.30 → 74.10 %, 23.0 % "
        "fewer parameters, 1.29× as fast at batch 1, reload proven.",
        original=measures(1.0, num_blocks, 75.3),
        cut=measures(0.77, num_blocks - gone, 74.1, kl=0.0451, agreement=95.1),
        edits=edits,
        latency=times,
        proofs=(proof,),
        onnx=onnx,
        provenance=SOURCE,
        warnings=("onnxruntime at batch 1 is not shown to be faster: its interval holds 1.",),
    )
