"""What edits are fitted on: one object that holds what was gathered, and says in a sentence what was not."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from delayer.activations.normal import Normal
from delayer.activations.switches import Switches
from delayer.errors import PlanError
from delayer.fitting.streams import Streams
from delayer.observing.stats.pair import Pair

if TYPE_CHECKING:
    from delayer.observing.stats import Moments


class Evidence:
    """What was gathered of data for edits.

    moments: second moments of pairs of points of the original. activations: what is known of the input of an activation, by
    its path. streams: the network cut so far, run beside the original.
    An edit asks for what it needs; what was not gathered raises PlanError, saying what to give.
    """

    def __init__(
        self,
        moments: "Moments | None" = None,
        *,
        activations: Callable[[str], Switches | Normal] | None = None,
        streams: Streams | None = None,
    ):
        self._moments, self._activations, self._streams = moments, activations, streams

    def pair(self, x: int, y: int) -> Pair:
        """Moments of what enters a span, at point x, and what it should give, at point y of the original.

        What enters is the cut network's where streams are there, unless they hold the original's moments.
        """
        if self._streams is not None:
            return self._streams.pair(x, y)
        if self._moments is None:
            raise PlanError(
                f"The map from point {x} to point {y} is fitted on moments, and none were given. Give stats= or data=."
            )
        try:
            return self._moments.pair(x, y)
        except KeyError as error:
            raise PlanError(
                f"The map from point {x} to point {y} is fitted on their moments, and those that were given lack this pair. "
                "Gather the pairs of plan.needs(chain), or give data=."
            ) from error

    def switches(self, path: str) -> Switches | Normal:
        """What is known of an activation: how often it switches, or how its input is distributed."""
        if self._activations is not None:
            return self._activations(path)
        if self._streams is not None:
            return self._streams.switches(path)
        raise PlanError(f"{path} is made linear by what it does on data, and none was given. Give data=, not stats= alone.")

    def streams(self, what: str) -> Streams:
        """The network cut so far beside the original; what: the edit that asks, for the error."""
        if self._streams is None:
            raise PlanError(
                f"{what} is fitted on the stream of the network cut so far; moments of the original are not enough. "
                "Give data= instead of stats=."
            )
        return self._streams
