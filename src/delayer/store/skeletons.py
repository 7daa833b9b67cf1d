"""Skeletons: the shapes of a network that a folder describes, built from nothing but what a file may name."""

from importlib import import_module
from typing import Any

from torch import nn

from delayer.cutting import Plan, apply_
from delayer.errors import DelayerError, ModelError
from delayer.families import chain_from_facts
from delayer.libraries import first_line, library, quiet
from delayer.store.artefact import Artefact, Source
from delayer.store.closed import closed_configuration, huggingface_class
from delayer.store.limits import Shapes, check_counts, check_size, no_larger_than
from delayer.store.originals import call_factory, load_timm
from delayer.store.trust import OURS, Trust, factory_for, nested, root


def skeleton(source: Source, trust: Trust, where: str) -> nn.Module:
    """The network's architecture, with weights still to be filled in; `check_source` has looked at the source before.

    Raises ModelError.
    """
    if source.kind == "timm":
        return load_timm(source.name, False, source.config)
    if source.kind == "factory" and source.name == OURS:
        winner = import_module("delayer.nas.winner")  # a search is no part of the store, and seldom needed
        winner.give_own(winner.config_of(source.config), trust.factory, trust.everything)
        return call_factory(OURS, winner.network, source.config)
    if source.kind == "factory":
        return call_factory(source.name, *factory_for(source, trust, where))
    if source.kind == "delayer":
        return cut_skeleton(
            skeleton(nested(source, where), trust, where), source.config["chain"], Plan.model_validate(source.config["plan"])
        )
    transformers, kind = library("transformers", "text"), huggingface_class(source.model_class, where)
    try:
        with quiet(transformers):
            return kind(kind.config_class.from_dict(closed_configuration(kind, source.config)), **source.arguments)
    except DelayerError:
        raise
    except Exception as error:  # whatever a constructor raises becomes one sentence
        raise ModelError(
            f"{source.model_class} could not be rebuilt from its configuration: {first_line(error)}. "
            f"Is this version of transformers ({transformers.__version__}) older than the one that saved it?"
        ) from error


def measured_skeleton(artefact: Artefact, shapes: Shapes, trust: Trust, where: str) -> nn.Module:
    """The original's skeleton, once its size is found to go with the weights file: first without memory, then with it.

    A factory of the user's own makes what it makes. Raises ModelError.
    """
    first = root(artefact.source, where)
    if first.kind == "factory" and first.name != OURS:
        return skeleton(artefact.source, trust, where)
    check_counts(first.config, where, shapes)
    if first.kind != "factory":
        check_size(lambda: skeleton(artefact.source, trust, where), shapes, num_blocks(artefact), where)
    with no_larger_than(shapes, num_blocks(artefact), where):
        return skeleton(artefact.source, trust, where)


def num_blocks(artefact: Artefact) -> int:
    """Blocks of the network that was cut first, as far as the records tell: the most that any of them lists."""
    chains, source = [artefact.chain], artefact.source
    while source.kind == "delayer":
        chains.append(source.config.get("chain") or {})
        source = nested(source, "the folder")
    return max(len(chain.get("blocks") or ()) for chain in chains)


def cut_skeleton(model: nn.Module, facts: dict[str, Any], plan: Plan) -> nn.Module:
    """A skeleton with the shapes that a plan leaves."""
    chain = chain_from_facts(model, facts)
    chain.hollow = True
    apply_(chain, plan, None)
    del model.delayer_edits
    return model
