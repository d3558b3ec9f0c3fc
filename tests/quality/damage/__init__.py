"""Damage to a history, by the anomaly that it is. Each function edits the rows and gives the names that must be found.

`Impossible` is raised where a history has nothing to damage in that way (no snapshot, no deleted key, …): draw another.
"""

from tests.quality.damage import delivery, handoff, order, values
from tests.quality.damage.drawing import DAMAGES, Impossible

__all__ = ["DAMAGES", "Impossible", "delivery", "handoff", "order", "values"]
