"""What was asked for, checked before any work starts: first the words alone, then whether this network can give it."""

from itertools import pairwise

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.errors import BudgetError, ModelError, PlanError, SpanError
from delayer.fitting.operators import operators, settings_of
from delayer.measure import num_params as params_of
from delayer.network.chain import Span
from delayer.network.inside_block import check_form
from delayer.search.budget import Budget
from delayer.search.methods import methods
from delayer.search.options import PlanOptions, ScanOptions, operators_of
from delayer.search.repair import forms_of, resolvable
from delayer.search.subject import Subject


def check_words(options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> None:
    """Whether the options mean something, whatever the network.

    Raises BudgetError, SpanError or PlanError for names that do not exist and for options that contradict each other.
    """
    if sum(bool(x) for x in (options.remove, options.max_drop is not None, options.span)) != 1:
        raise BudgetError("Say what to cut by exactly one of --remove, --max-drop or --span.")
    _among("method", options.method, ("ours", *methods))
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


def check_asked(subject: Subject, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> None:
    """Whether this network can give what was asked, as far as can be told before it is scored.

    Raises what `check_words` raises, SpanError for a span that is not there, BudgetError for a budget above what all its
    blocks hold, PlanError and ModelError for operators, repairs and methods that it has no place for.
    """
    check_words(options, scan_options)
    chain = subject.chain
    for text in options.span:
        width = chain.check(Span.parse(text)).width
        if options.operator is None:
            continue
        offered = settings_of(options.operator, width, options.operator_options)
        if not offered:
            raise BudgetError(f"Span {text} has width {width}, too narrow for {options.operator}. Use --operator affine.")
        for one in offered:
            one.check(width, chain.axis)
    if options.operator is not None and operators[options.operator].reads == "patches":
        forms = forms_of(chain, subject.task.batches("fit")[0])
        for span in map(Span.parse, options.span):
            check_form(forms[span.stop - 1], chain.blocks[span.stop - 1].path)
    if options.method != "ours":
        methods[options.method].check_suits(subject)
    if options.remove:
        _check_budget(subject, Budget.parse(options.remove), options, operators_of(scan_options.operators))
    normed = any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in subject.model.modules())
    if options.repair == "norms" and not normed:
        raise PlanError(
            f"--repair norms found no batch norm with statistics in {type(subject.model).__name__}. Use --repair none, "
            "resolve or best."
        )
    if options.repair == "resolve" and not resolvable(chain, subject.task.batches("fit")[0]):
        raise ModelError(
            f"No block of {type(subject.model).__name__} ends in shortcut + linear layer with nothing or a ReLU "
            "behind, so none can be solved anew. Use --repair none, or fine-tune."
        )


def _among(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise BudgetError(f"There is no {what} {name!r}. Use {', '.join(known[:-1])} or {known[-1]}.")


def _check_map(options: PlanOptions) -> None:
    """Options of a map by hand, which go with some operators and only with spans."""
    given = {"operator": options.operator, **options.operator_options}
    for name, value in given.items():
        if value is not None and not options.span:
            raise BudgetError(
                f"--{name} {value} says what stands in a span by hand, and no --span was given. Give one, or choose "
                "what a search may use with --operators."
            )
    if options.operator is not None:
        _among("operator", options.operator, tuple(operators))
    for name, value in options.operator_options.items():
        takers = [other for other, kind in operators.items() if name in kind.model_fields]
        if options.operator not in takers:
            if not takers:
                known = sorted({option for kind in operators.values() for option in kind.model_fields})
                raise BudgetError(f"No operator has an option {name} ({value} was given). Known are {', '.join(known)}.")
            raise BudgetError(
                f"--{name} {value} goes with --operator {' or '.join(takers)}; the operator is "
                f"{options.operator or 'chosen on held-out data'}. Give --operator {takers[0]}, or leave --{name} out."
            )
    if options.operator is not None and options.operator_options:
        settings_of(options.operator, 64, options.operator_options)


def _check_budget(subject: Subject, budget: Budget, options: PlanOptions, names: tuple[str, ...]) -> None:
    """Raises BudgetError where all that may go would not be enough; what a search finds may be less."""
    chain = subject.chain
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
        total, most = float(subject.macs or 0), float(sum(subject.block_macs[block] for block in free))
    else:
        total, most = float(params_of(subject.model)), 0.0
        for segment, run in zip(chain.segments, runs, strict=True):
            offered = [one for name in names for one in settings_of(name, segment.width)]
            left = min((one.num_params(segment.width) for one in offered), default=0)
            most += max(0, sum(params_of(chain.module(block)) for block in run) - left)
    if most < budget.target(lambda: total):
        what = f"{most:g} blocks" if budget.unit == "blocks" else f"{100 * most / max(total, 1):.1f} % of {budget.unit}"
        raise BudgetError(
            f"Removing {budget} cannot be met: at most {what} can go from this network ({chain!r}). Ask for less.", most=most
        )
