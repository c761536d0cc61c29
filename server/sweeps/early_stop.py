"""Who may stop before the end: Hyperband, as sweep configs ask for it (`early_terminate`)."""

import math
from collections.abc import Mapping, Sequence

from server.sweeps.config import SweepConfig


def to_stop(config: SweepConfig, histories: Mapping[str, Sequence[float]]) -> set[str]:
    """Return which runs are not worth going on, by name.

    `histories` holds for each run that ever was its metric, point by point. Runs are compared after certain numbers of
    points (`EarlyStop.looks`): the best part of those that came that far goes on, one in `eta` of them. Nobody stops
    before `eta` runs came there. A run counts with the best value that it has had, in a strict comparison only with
    those up to the look.
    """
    rule, metric = config.early_stop, config.metric
    if rule is None or metric is None:
        return set()
    curves = {
        name: [metric.sign * value for value in values if math.isfinite(value)] for name, values in histories.items()
    }
    stopped: set[str] = set()
    for look in rule.looks:
        reached = {name: curve for name, curve in curves.items() if len(curve) >= look}
        if len(reached) < rule.eta:
            break
        at_look = sorted(min(curve[:look]) for curve in reached.values())
        threshold = at_look[math.ceil(len(at_look) / rule.eta) - 1]
        for name, curve in reached.items():
            if min(curve[:look] if rule.strict else curve) > threshold:
                stopped.add(name)
    return stopped
