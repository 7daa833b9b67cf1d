"""What was asked for, checked before any work starts: first the words alone, then whether this network can give it."""

from itertools import pairwise

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.errors import BudgetError, DataError, ModelError, PlanError, SpanError
from delayer.fitting.affine import OPERATORS, num_params
from delayer.measure import num_params as params_of
from delayer.modules.conv_map import KERNELS
from delayer.network.chain import Span
from delayer.network.inside_block import check_form
from delayer.search.budget import Budget
from delayer.search.methods import methods
from delayer.search.repair import forms_of, resolvable
from delayer.search.scan import ranks_for
from delayer.stages.options import CheckOptions, PlanOptions, ScanOptions
from delayer.stages.work import Work

REFITS = ("best", "independent", "sequential")
REPAIRS = ("none", "resolve", "norms", "best")
READOUTS = ("head", "linear")


def operators_of(text: str) -> tuple[str, ...]:
    """The operators that a text names, each once. Raises BudgetError for an unknown one, or where it names none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in ("drop", *OPERATORS):
            raise BudgetError(f"There is no operator {name!r}. Use {', '.join(('drop', *OPERATORS))}.")
    if not names:
        raise BudgetError(f"--operators {text!r} names no operator. Use some of {', '.join(('drop', *OPERATORS))}.")
    return names


def check_words(
    options: PlanOptions, scan_options: ScanOptions = ScanOptions(), check_options: CheckOptions = CheckOptions()
) -> None:
    """Whether the options mean something, whatever the network.

    Raises BudgetError, SpanError or DataError for names that do not exist and for options that contradict each other.
    """
    if sum(bool(x) for x in (options.remove, options.max_drop is not None, options.span)) != 1:
        raise BudgetError("Say what to cut by exactly one of --remove, --max-drop or --span.")
    _among("method", options.method, ("ours", *methods))
    _among("refit", options.refit, REFITS)
    _among("repair", options.repair, REPAIRS)
    operators_of(scan_options.operators)
    budget = Budget.parse(options.remove) if options.remove else None
    if options.method != "ours":
        method = methods[options.method]
        if options.max_drop is not None:
            raise BudgetError(
                f"{method.title} states no stopping rule. Use --remove blocks=N or --span with --method {method.name}."
            )
        if budget and budget.unit != "blocks":
            raise BudgetError(
                f"{method.title} removes a number of blocks; {budget} was asked for. Use --remove blocks=N or --span."
            )
        if options.operator is not None:
            raise BudgetError(
                f"{method.title} has an operator of its own ({method.operator}), and --operator "
                f"{options.operator} was given. Leave one of --method and --operator out."
            )
    _check_map(options)
    spans = sorted(Span.parse(text) for text in options.span)
    for one, two in pairwise(spans):
        if one.overlaps(two):
            raise SpanError(f"Spans {one} and {two} overlap. Join them to {one.start}:{max(one.stop, two.stop)}, or shorten one.")
    check_measures(check_options)


def check_measures(options: CheckOptions) -> None:
    """Whether a check can be done as asked. Raises DataError otherwise."""
    if options.readout not in READOUTS:
        raise DataError(f"There is no read-out {options.readout!r}. Use head (the network's own) or linear (a new one).")
    if not options.batch_sizes or min(options.batch_sizes) < 1:
        raise DataError(f"Latency was asked for with batch sizes {list(options.batch_sizes)}. Give one or more, from 1 on.")


def check_asked(work: Work, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> None:
    """Whether this network can give what was asked, as far as can be told before it is scored.

    Raises what `check_words` raises, SpanError for a span that is not there, BudgetError for a budget above what all its
    blocks hold, PlanError and ModelError for operators and repairs that it has no place for.
    """
    check_words(options, scan_options)
    chain = work.chain
    for text in options.span:
        width = chain.check(Span.parse(text)).width
        if options.rank is not None and options.rank >= width:
            raise BudgetError(
                f"A low-rank update of rank {options.rank} was asked for on span {text}, whose width is {width}. "
                f"Use a rank from 1 to {width - 1}."
            )
        if options.operator == "low_rank" and options.rank is None and not ranks_for(width):
            raise BudgetError(f"Span {text} has width {width}, too narrow for a low-rank update. Use --operator affine.")
    if options.operator == "conv":
        _check_convolutions(work, options)
    if options.remove:
        _check_budget(work, Budget.parse(options.remove), options, operators_of(scan_options.operators))
    normed = any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in work.model.modules())
    if options.repair == "norms" and not normed:
        raise PlanError(
            f"--repair norms found no batch norm with statistics in {type(work.model).__name__}. Use --repair none, "
            "resolve or best."
        )
    if options.repair == "resolve" and not resolvable(chain, work.task.batches("fit")[0]):
        raise ModelError(
            f"No block of {type(work.model).__name__} ends in shortcut + linear layer with nothing or a ReLU "
            "behind, so none can be solved anew. Use --repair none, or fine-tune."
        )


def _among(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise BudgetError(f"There is no {what} {name!r}. Use {', '.join(known[:-1])} or {known[-1]}.")


def _check_map(options: PlanOptions) -> None:
    """Options of a map by hand, which go with some operators and only with spans."""
    if options.operator is not None:
        _among("operator", options.operator, ("drop", *OPERATORS, "conv"))
    given = {"--operator": options.operator, "--rank": options.rank, "--kernel": options.kernel}
    for name, value in given.items():
        if value is not None and not options.span:
            raise BudgetError(
                f"{name} {value} says what stands in a span by hand, and no --span was given. Give one, or choose "
                "what a search may use with --operators."
            )
    if options.rank is not None and options.operator != "low_rank":
        raise BudgetError(
            f"--rank {options.rank} goes with --operator low_rank; the operator is "
            f"{options.operator or 'chosen on held-out data'}. Give --operator low_rank, or leave --rank out."
        )
    if options.rank is not None and options.rank < 1:
        raise BudgetError(f"A low-rank update of rank {options.rank} was asked for. Use a rank of 1 or more.")
    if options.kernel is not None and options.operator != "conv":
        raise BudgetError(
            f"--kernel {options.kernel} goes with --operator conv; the operator is "
            f"{options.operator or 'chosen on held-out data'}. Give --operator conv, or leave --kernel out."
        )
    if options.kernel not in (None, *KERNELS):
        raise BudgetError(f"A convolution {options.kernel} wide was asked for. Use --kernel 1, 3 or 5.")


def _check_convolutions(work: Work, options: PlanOptions) -> None:
    if work.chain.axis != 1:
        raise PlanError(
            f"{work.name} passes no pictures (its features lie on axis {work.chain.axis}), so no convolution can "
            "stand in it. Use --operator affine."
        )
    forms = forms_of(work.chain, work.task.batches("fit")[0])
    for span in map(Span.parse, options.span):
        check_form(forms[span.stop - 1], work.chain.blocks[span.stop - 1].path)


def _check_budget(work: Work, budget: Budget, options: PlanOptions, operators: tuple[str, ...]) -> None:
    """Raises BudgetError where all that may go would not be enough; what a search finds may be less."""
    chain = work.chain
    if options.method != "ours":
        methods[options.method].check(chain, budget)
        return
    if budget.unit == "latency":  # is only known once blocks were timed
        return
    runs = [range(segment.start, segment.stop) for segment in chain.segments]
    free = [block for run in runs for block in run]
    if budget.unit == "blocks":
        total, most = float(sum(map(chain.weight, range(chain.num_blocks)))), float(sum(map(chain.weight, free)))
    elif budget.unit == "macs":
        total, most = float(work.macs or 0), float(sum(work.block_macs[block] for block in free))
    else:
        total, most = float(params_of(work.model)), 0.0
        for segment, run in zip(chain.segments, runs, strict=True):
            left = min(num_params(operator, segment.width, min(ranks_for(segment.width), default=1)) for operator in operators)
            most += max(0, sum(params_of(chain.module(block)) for block in run) - left)
    if most < budget.target(lambda: total):
        what = f"{most:g} blocks" if budget.unit == "blocks" else f"{100 * most / max(total, 1):.1f} % of {budget.unit}"
        raise BudgetError(
            f"Removing {budget} cannot be met: at most {what} can go from this network ({chain!r}). Ask for less.", most=most
        )
