"""A model that begins with another one's weights: what both share is copied, what is new starts as the identity.

So it computes at first what the other one does without the blocks that were replaced. Attention blocks and timm's
residual blocks can start so, by a zero at the end of their branch. A block without a skip (spatial smoothing) can't,
and begins as it always does; `inherit` names those.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from buildup.errors import RunError
from buildup.graph.network import Network
from buildup.models.blocks import ChannelsLast


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """Where trained weights are, and of which network."""

    network: Network
    weights: str
    """The file that its training left."""

    @property
    def identity(self) -> str:
        """Which training they are of, as that training said itself."""
        try:
            with safe_open(self.weights, framework="pt") as file:
                return str(file.metadata()["identity"])
        except (OSError, SafetensorError, TypeError, KeyError) as problem:
            raise RunError(f"{self.weights}: no weights of a training to begin with ({problem}).") from None


def inherit(model: nn.Module, network: Network, inheritance: Inheritance) -> tuple[str, ...]:
    """Let a model of a network begin with another one's weights; the new blocks that do not start as the identity."""
    new = new_blocks(network, inheritance.network)
    weights = _read(inheritance.weights)
    fresh = tuple(f"{path}." for path in new)
    for name, own in model.state_dict().items():
        if fresh and name.startswith(fresh):
            continue
        if name not in weights or weights[name].shape != own.shape:
            raise RunError(f"{inheritance.weights}: it has no {name} of shape {tuple(own.shape)} to begin with.")
        own.copy_(weights[name])
    return tuple(path for path in new if not _starts_as_identity(model.get_submodule(path)))


def new_blocks(network: Network, parent: Network) -> tuple[str, ...]:
    """The paths of the blocks that a network does not share with another one."""
    before = {block.path: block.kind for block in parent.blocks}
    return tuple(block.path for block in network.blocks if before.get(block.path) != block.kind)


def _starts_as_identity(block: nn.Module) -> bool:
    """Let a block start as the identity, up to its last activation; whether it can."""
    inner = block.block if isinstance(block, ChannelsLast) else block
    zero_init_last = getattr(inner, "zero_init_last", None)  # the name by which timm calls it, in the families that can
    if zero_init_last is None:
        return False
    zero_init_last()
    return True


def _read(path: str) -> Mapping[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
