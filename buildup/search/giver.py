"""Trained weights of a run that another training of it begins with."""

from buildup.errors import RunError
from buildup.models.inherit import Inheritance
from buildup.search.evaluate import attempt_folder, attempts
from buildup.search.folder import Run
from buildup.trials.candidate import Candidate
from buildup.trials.training import training_id

WEIGHTS = "weights.safetensors"


def weights_of(run: Run, giver: Candidate, seed: int) -> Inheritance:
    """The weights that a candidate's training left, of its newest attempt that has any."""
    own = run.trainings / training_id(giver.id, seed)
    paths = [attempt_folder(own, number) / WEIGHTS for number in reversed(attempts(own))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise RunError(f"{own}: no attempt of it has a {WEIGHTS}, which another training begins with.")
    return Inheritance(network=giver.network, weights=str(found.absolute()))
