"""A search over blocks that simply go: for networks whose other blocks are solved anew afterwards, so that no map is wanted."""

from delayer.fitting.operators.drop import Drop
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.subject import Subject
from delayer.study import Scan, SpanDamage


def drops_alone(subject: Subject, options: PlanOptions, scan_options: ScanOptions) -> bool:
    """Whether a search need not look at maps: of a decoder whose blocks are solved anew, where nobody names operators.

    A block that stays, solved anew, does what a map would, is nearer to the original, and costs nothing.
    options: with the repair that was settled on.
    """
    solves = options.repair in ("resolve", "best") and subject.task.kind == "causal-lm" and bool(subject.resolvable)
    return solves and not scan_options.operators and options.method == "ours" and not options.span


def drops_of(subject: Subject) -> Scan:
    """Every block that may go, and how far it moves the stream, from the score of Block Redundancy alone.

    Longer spans are sets of these. The mean squared distance stands where a scan has a held-out residual: within one network it
    compares blocks in the same way.
    """
    chain, macs, score = subject.chain, subject.block_macs, subject.scored("block_redundancy")
    rows = []
    for span in sorted(span for span in chain.spans() if len(span) == 1):
        start, stop = chain.ends(span)
        moved, blocks = score.values[start][stop], range(span.start, span.stop)
        if moved is None:
            continue
        rows.append(
            SpanDamage(
                start=span.start,
                stop=span.stop,
                operator=Drop.name,
                options={},
                title=Drop().title,
                residual=-float(moved),
                residual_fit=-float(moved),
                params_saved=sum(p.numel() for b in blocks for p in chain.module(b).parameters()),
                macs_saved=sum(macs[b] for b in blocks),
                blocks_saved=sum(chain.weight(b) for b in blocks),
            )
        )
    return Scan(rows=score.rows, num_rows_fit=score.num_samples, num_rows_heldout=0, spans=tuple(rows), failed=())
