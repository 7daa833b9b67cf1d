"""Records that name the plug-ins from outside that they were made with; naming is all that a file may do."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer, model_validator

from delayer.registry import origins
from delayer.registry.origins import Origin, distribution, hear
from delayer.study.record import Record

Word = Annotated[str, Field(max_length=200, pattern=r"^[\w.+-]*$")]
"""Of a package or a module; nothing that would read as more in an error or on a command line."""


class PlugIn(Record):
    """A plug-in of somebody's package."""

    kind: str = Field(max_length=40)
    """Such as edit, metric, schedule."""
    name: str = Field(max_length=200)
    module: Word
    """What has to be imported for it."""
    package: Word = ""
    """What has to be installed for it; "" for a module that lay anywhere."""
    version: Word = ""


class Naming(Record):
    """A record that names its plug-ins, so that a machine without them can say what is missing."""

    plugins: tuple[PlugIn, ...] = Field(default=(), max_length=1000)
    """Those from outside that it was made with; the key is left out where there are none."""

    def _words(self) -> Iterator[tuple[str, str]]:
        """Kind and name of all that may be a plug-in's; kind "" where any may be meant."""
        yield from ()

    @field_validator("plugins")
    @classmethod
    def _heard(cls, plugins: tuple[PlugIn, ...]) -> tuple[PlugIn, ...]:
        for one in plugins:
            hear(Origin(one.kind, one.name, one.module, package=one.package, version=one.version))
        return plugins

    @model_validator(mode="after")
    def _named(self, info: ValidationInfo) -> Self:
        if info.mode == "json" and "seal" in type(self).model_fields:  # a sealed file says all that it ever will
            return self
        stated = {(one.kind, one.name) for one in self.plugins}
        if found := [one for one in plugins_among(self._words()) if (one.kind, one.name) not in stated]:
            object.__setattr__(self, "plugins", (*self.plugins, *found))
        return self

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As every record was written before there were plug-ins, so that hashes over old ones still fit."""
        written = write(self)
        if not written.get("plugins", True):
            del written["plugins"]
        return written


def plugins_among(words: Iterable[tuple[str, str]]) -> list[PlugIn]:
    """Those plug-ins from outside that are registered here under one of these kinds and names."""
    known = origins()
    if not known:
        return []
    asked = set(words)
    found = [one for one in known if {(one.kind, one.name), ("", one.name)} & asked]
    return [
        PlugIn(kind=one.kind, name=one.name, module=one.module, package=package, version=version)
        for one in found
        for package, version in [distribution(one.module)]
    ]


def words_in(value: Any) -> Iterator[str]:
    """Every text in nested options."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from words_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from words_in(item)
