"""Workers in this process: they train what Ray's workers would, without the seconds that Ray and its imports take."""

from collections.abc import Sequence

from buildup.engine.setup import job_maker
from buildup.execution.attempt import run_attempt
from buildup.execution.dispatcher import FetchReusable
from buildup.store.run_dir import attempt_folder, attempts
from buildup.store.run_record import RunRecord
from buildup.training.fit import fit
from buildup.trials.event import Event, Update
from buildup.trials.training import Training


class LocalWorkers:
    """Stands in for `start_workers`. A training runs to its end before the next one is looked at."""

    workers = 1

    def __init__(
        self, run: RunRecord, *, verbose: bool, whole: bool = False, fetch_reusable: FetchReusable | None = None
    ) -> None:
        self._folder, self._job = run.trainings, job_maker(run, whole=whole)
        self._requested: Sequence[Training] = ()
        self._updates: list[tuple[Training, Update]] = []

    def request(self, requested: Sequence[Training]) -> None:
        self._requested = requested

    def next_event(self, timeout: float | None = None) -> Event | None:
        if not self._updates:
            training = self._requested[0]
            folder = self._folder / training.id
            earlier = [attempt_folder(folder, number) for number in reversed(attempts(folder))]
            own = attempt_folder(folder, len(earlier) + 1)
            own.mkdir(parents=True)
            self._updates = [(training, update) for update in run_attempt(fit, self._job(training, own, earlier), own)]
        training, update = self._updates.pop(0)
        return Event(training=training, update=update)

    def close(self) -> None:
        pass
