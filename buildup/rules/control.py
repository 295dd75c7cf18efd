"""The control of equal size: the base with more blocks of its own, as large as the winner, but without its kinds.

A winner may be better than its base because it is larger. Blocks of the base's own are added at the ends of stages
until its parameters come as near the winner's as blocks allow, at most as many as the winner has replaced or added,
so that it is no other network altogether. Of equally near ones it is the one with the fewest blocks, later stages
first, where the search begins, too.
"""

from collections.abc import Callable, Iterator

from buildup.graph.edit import Append, apply
from buildup.graph.network import Network
from buildup.rules.moves import next_network
