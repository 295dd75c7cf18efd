"""Load the trained models of a run."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from buildup.errors import RunError
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.store.run_dir import trained_weights
from buildup.trials.training import WEIGHTS


def load_trained(network: Network, training: Path, snapshot: Path | None = None) -> nn.Module:
    """The model of a network with the weights of a finished training, given its folder, or with those of a snapshot."""
    weights = snapshot or trained_weights(training)
    if weights is None:
        raise RunError(
            f"{training} has no {WEIGHTS}: the training has not ended, or they were removed. In the latter case, put "
            "them back from a copy of the run."
        )
    model = build(network)
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{weights}: cannot read the weights: {error}") from error
    except RuntimeError as error:
        raise RunError(f"{weights}: weights of another network: {str(error).splitlines()[-1].strip()}") from error
    return model
