"""Skeletons: the shapes of a network that a folder describes, built from nothing but what a file may name."""

from importlib import import_module
from typing import Any

from torch import nn

from delayer.errors import ModelError
from delayer.families import chain_from_facts
from delayer.libraries import first_line, library, quiet
from delayer.plan import Plan, apply_
from delayer.store.artefact import Source
from delayer.store.closed import closed_configuration, huggingface_class
from delayer.store.originals import call_factory, load_timm
from delayer.store.trust import OURS, Trust, factory_for, nested


def skeleton(source: Source, trust: Trust, said: str) -> nn.Module:
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
        return call_factory(source.name, *factory_for(source, trust, said))
    if source.kind == "delayer":
        return cut_skeleton(skeleton(nested(source, said), trust, said), source.config["chain"],
                            Plan.model_validate(source.config["plan"]))
    transformers, kind = library("transformers", "text"), huggingface_class(source.model_class, said)
    try:
        with quiet(transformers):
            return kind(kind.config_class.from_dict(closed_configuration(kind, source.config)), **source.arguments)
    except Exception as error:  # whatever a constructor raises becomes one sentence
        raise ModelError(
            f"{source.model_class} could not be rebuilt from its configuration: {first_line(error)}. "
            f"Is this version of transformers ({transformers.__version__}) older than the one that saved it?"
        ) from error


def cut_skeleton(model: nn.Module, facts: dict[str, Any], plan: Plan) -> nn.Module:
    """A skeleton with the shapes that a plan leaves."""
    chain = chain_from_facts(model, facts)
    chain.hollow = True
    apply_(chain, plan, None)
    del model.delayer_edits
    return model
