"""What a model computes from one image, as a graph of function calls, and where all of it goes through one tensor.

A tensor is a *cut* when every path from the image to the logits leads through it: the output of a ResNet block, the sum
after one attention branch of a ViT. What lies between two cuts is a model of its own, and all of them in a row are the
model.
"""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.models.trace import Call, Node, run_traced

SUMS = frozenset(("add", "add_", "__add__", "__iadd__", "__radd__"))


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A traced model."""

    nodes: tuple[Node, ...]
    """In the order in which they ran; the first is the image."""
    runs: tuple[Call, ...]
    """In the order in which they began."""
    end: int
    """The node of the logits."""

    @cached_property
    def relevant(self) -> frozenset[int]:
        """The calls that the logits depend on."""
        found, waiting = {self.end}, [self.end]
        while waiting:
            for parent in self.nodes[waiting.pop()].parents:
                if parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return frozenset(found)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Calls that every path leads through, whose result is one tensor."""
        furthest, found = 0, []
        reach = dict.fromkeys(self.relevant, 0)
        for number in sorted(self.relevant):
            for parent in self.nodes[number].parents:
                reach[parent] = max(reach[parent], number)
        for number in sorted(self.relevant):
            # Nothing that ran earlier is read later: what is after this call knows of the image by its result alone.
            if furthest <= number and self.nodes[number].shape is not None:
                found.append(number)
            furthest = max(furthest, reach[number])
        return tuple(found)

    def between(self, first: int, last: int) -> tuple[Node, ...]:
        """The calls after one cut, up to and with another."""
        return tuple(self.nodes[number] for number in range(first + 1, last + 1) if number in self.relevant)

    def is_sum(self, number: int) -> bool:
        """Whether a call adds two things that both depend on the image and have the same shape."""
        node = self.nodes[number]
        return node.function in SUMS and len(node.parents) == 2 and node.parents[0] != node.parents[1]

    def is_concatenation(self, number: int) -> bool:
        """Whether a call puts several things that depend on the image side by side."""
        node = self.nodes[number]
        return node.function in ("cat", "concat") and len(set(node.parents)) > 1

    def is_map(self, number: int) -> bool:
        """Whether a result has axes beside those of images and channels."""
        return len(self.nodes[number].shape or ()) > 2

    def weight(self, number: int, since: int) -> int:
        """How many calls after a cut a result is made of."""
        found, waiting = set(), [number]
        while waiting:
            here = waiting.pop()
            if here > since and here not in found:
                found.add(here)
                waiting += self.nodes[here].parents
        return len(found)


def trace(model: nn.Module, image: Tensor) -> Flow:
    """Run a model on one image, and write down what calls what. Its mode is the caller's affair."""
    nodes, root, logits = run_traced(model, image)
    if root.output_node is None:
        raise BaseError(
            f"{type(model).__name__} gives out {type(logits).__name__}, and one tensor of logits is needed that "
            "depends on the image."
        )
    return Flow(nodes=nodes, runs=tuple(root.inside), end=root.output_node)
