"""Check the settings of a search and load what they name. All problems are reported at once."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from buildup.engine.clean import BYTES_PER_PARAMETER
from buildup.engine.graph_cache import costs_of
from buildup.engine.hardware import Hardware, cluster_address, cpus_per_worker, hardware_of, processes_of, share_of
from buildup.engine.problems import Problems
from buildup.engine.replay import make_replay
from buildup.errors import BuildupError, RequestError
from buildup.files import is_file_name
from buildup.graph.base_name import base_text, parse_base
from buildup.graph.network import Network
from buildup.models.bases import PRUNED
from buildup.models.pretrained import find_pretrained, fresh_parts
from buildup.models.read import read_network
from buildup.report.trackers import check_trackers
from buildup.report.words import memory
from buildup.settings import RunSettings, SearchSettings, misfits, with_texts
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.store.remote_folder import check_remote, remote_url
from buildup.store.run_dir import check_free, folder_for
from buildup.store.run_record import RunRecord, start_of
from buildup.store.storage import check_storage
from buildup.strategies.moves import start, steered
from buildup.strategies.network_size import Limits
from buildup.strategies.registered import STRATEGIES
from buildup.training.data import absolute_name, check_folds, describe_data, forget_data, readable_name
from buildup.training.dataset import DataInfo, fraction_text, parse_fraction
from buildup.training.execution_words import parse_execution
from buildup.training.feed import check_shared
from buildup.training.health import recipe_warning, validation_warning
from buildup.training.metrics import METRICS
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.speed import Speed, choose_execution, default_execution
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import Candidate, Pretrained


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The checked settings of a search, with everything loaded that they name."""

    folder: Path
    settings: RunSettings
    space: SearchSpace
    recipe: Recipe
    data: DataInfo
    network: Network
    """The network that the search starts from: the base, with the blocks that the space adds."""
    speeds: tuple[Speed, ...]
    """The measured speed of each form of steps, the chosen one first. Empty on this machine's CPU, which has one."""


def resolve(settings: SearchSettings, *, new_run: bool = True, recorded: RunRecord | None = None) -> Request:
    """Check the settings of a search and load what they name. Nothing is written.

    With `new_run`, the run's folder and its study must not exist yet. A recorded run gives its recipe and space, which
    are not read again. All problems are raised as one `RequestError`.
    """
    settings = _typed(settings)
    settings = replace(settings, ray=cluster_address(settings.ray))
    forget_data()
    problems = Problems()
    problems.found += [f"--{name} is missing." for name in ("base", "dataset") if not getattr(settings, name)]
    seeds = problems.whole("--seeds", settings.seeds, SearchSettings.seeds)
    hardware = hardware_of(problems, settings, seeds)
    processes = processes_of(hardware.gpus_per_trial)
    settled = problems.checked({}, settled_execution, settings.execution, hardware.device, processes)
    epochs = problems.whole("--epochs", settings.epochs, 0)
    checked, space, recipe, data = _load(problems, replace(settings, epochs=epochs), seeds, recorded)
    values: dict[str, Any] = {
        "epochs": problems.whole("--epochs", recipe.epochs, 1) if recipe else 1,
        "time_budget": problems.duration("--time-budget", settings.time_budget),
        "stall_timeout": problems.seconds("--stall-timeout", settings.stall_timeout),
        "max_trials": problems.whole("--max-trials", settings.max_trials, 0) or None,
        "disk_budget": problems.size("--disk-budget", settings.disk_budget),
    }
    if recipe and data:
        problems.checked(None, check_batches, recipe, data, processes)
    network, pretrained = _start(problems, checked, space, data)
    problems.found += disk_problems(values["disk_budget"], checked.storage_path, network)
    folder = folder_for(settings)
    if new_run:
        problems.checked(None, check_free, folder)
        problems.checked(None, check_storage, settings.storage, folder.name)
        problems.checked(None, check_trackers, settings.track)
        if checked.storage_path and not problems.found:  # it makes the folder
            problems.checked(None, check_remote, checked.storage_path, folder.name)
    problems.raise_any()
    assert data is not None
    assert space is not None
    assert recipe is not None
    assert network is not None
    speeds = _measured(network, recipe, data, hardware, settled, seeds, settings.ray)
    chosen = speeds[0].execution if speeds else replace(default_execution(recipe, hardware.device), **settled)
    asked, arguments = parse_base(settings.base)
    values |= {
        "base": base_text(asked if asked in PRUNED else network.base, arguments),
        "run": settings.run or folder.name,
        "pretrained": pretrained.source if pretrained else None,
        "pretrained_hash": pretrained.hash if pretrained else None,
        "image_size": data.image_size,
        "execution": chosen.words,
    }
    return Request(
        folder=folder,
        settings=RunSettings(**(asdict(checked) | values | asdict(hardware))),
        space=space,
        recipe=recipe,
        data=data,
        network=network,
        speeds=speeds,
    )


def _typed(settings: SearchSettings) -> SearchSettings:
    """The settings as they are on a command line, whatever a script gave; raises what they can't be."""
    settings = with_texts(settings)
    if wrong := list(misfits(settings)):
        raise RequestError(*wrong)
    return settings


def cautions(asked: Request | RunRecord) -> Iterator[str]:
    """What to know of the images, the weights and the recipe of a search before its results are trusted."""
    start = start_of(asked.settings)
    anew = None
    with suppress(BuildupError):  # trainings say it, should any still need weights that are gone
        anew = fresh_parts(asked.network, start)
    recipe = recipe_warning(asked.network, asked.recipe, asked.space.kind if start else "")
    yield from filter(None, (*asked.data.notes, anew, recipe, validation_warning(asked.data.val_images)))


def disk_problems(budget: int | None, storage_path: str | None, network: Network | None) -> Iterator[str]:
    if budget and storage_path:
        yield "--disk-budget: with --storage-path, trainings write there and not into the run's folder. Leave out one."
    elif budget and network:
        least = BYTES_PER_PARAMETER * costs_of(Candidate(network=network))[0]
        if budget < least:
            yield (
                f"--disk-budget {memory(budget)}: one training of {network.base} alone writes {memory(least)} or more, "
                "weights and checkpoint. Several run side by side."
            )


def check_batches(recipe: Recipe, data: DataInfo, processes: int) -> None:
    train, val = data.train_images, data.val_images
    check_shared(processes, recipe.resolved(train_images=train), train_images=train, val_images=val)


def settled_execution(asked: str | None, device: str, processes: int) -> dict[str, Any]:
    """The fields of an execution that need no measurement, for so many processes. The steps of several are eager."""
    settled = parse_execution(asked, device) if asked else {}
    if processes == 1:
        return settled
    if (steps := settled.get("steps", "eager")) != "eager":
        raise RequestError(f"--execution: steps on {processes} GPUs are eager, not {steps}. Leave the word out.")
    return {**settled, "steps": "eager"}


def _load(
    problems: Problems, settings: SearchSettings, seeds: int, recorded: RunRecord | None
) -> tuple[SearchSettings, SearchSpace | None, Recipe | None, DataInfo | None]:
    """The checked settings with their defaults and absolute paths, but for what is measured, and what they name.

    What cannot be loaded is None. Space and recipe are those of a recorded run, if there is one.
    """
    share = problems.checked(1.0, parse_fraction, settings.fraction)
    space, recipe = (recorded.space, recorded.recipe) if recorded else (None, None)
    with problems.caught():
        space = space or steered(load(settings.space), look_ahead=settings.look_ahead, places=settings.places)
    recipe = recipe or problems.checked(None, load_recipe, settings.recipe, settings.set, settings.epochs)
    size = problems.whole("--image-size", settings.image_size, 0, least=8) or None
    data, dataset = None, ""
    if settings.dataset:
        dataset = absolute_name(readable_name(settings.dataset, skip_unreadable=settings.skip_unreadable))
        data = problems.checked(None, describe_data, dataset, settings.data_dir, size, fraction=share)
    if data:
        problems.checked(None, check_folds, dataset, settings.data_dir)
    checked = replace(
        settings,
        space=_absolute(settings.space),
        recipe=_absolute(settings.recipe),
        data_dir=None if settings.data_dir is None else str(Path(settings.data_dir).absolute()),
        dataset=dataset,
        fraction=fraction_text(share),
        seeds=seeds,
        strategy=problems.choice("strategy", settings.strategy, "alternet", STRATEGIES),
        objective=_objective(problems, settings.objective),
        judge=problems.judge(settings.judge, space.judge if space else "likely", seeds),
        max_params=problems.whole("--max-params", settings.max_params, 0) or None,
        max_macs=problems.whole("--max-macs", settings.max_macs, 0) or None,
        seed=problems.whole("--seed", settings.seed, 0),
        storage_path=problems.checked(None, remote_url, settings.storage_path) if settings.storage_path else None,
        keep_weights=problems.choice("kept weights", settings.keep_weights, "all", ("all", "winners")),
    )
    return checked, space, recipe, data


def _objective(problems: Problems, name: str) -> str:
    """The name of an objective; trainings must measure it."""
    name = problems.choice("objective", name, "accuracy", OBJECTIVES)
    if name not in {"accuracy", *METRICS}:
        problems.found.append(f"--objective {name}: no metric has this name, so nothing measures it.")
    return name


def _absolute(name: str) -> str:
    """A space or a recipe that is a file by its absolute path, as it may be asked for again from another folder.

    >>> _absolute("quick")
    'quick'
    """
    return str(Path(name).absolute()) if is_file_name(name) else name


def _start(
    problems: Problems, settings: SearchSettings, space: SearchSpace | None, data: DataInfo | None
) -> tuple[Network | None, Pretrained | None]:
    if not settings.base:
        return None, None
    pretrained = None
    network = problems.checked(
        None,
        read_network,
        settings.base,
        input_shape=(data.channels, data.image_size, data.image_size) if data else (3, 224, 224),
        num_classes=data.num_classes if data else 1000,
        stem=space.stem if space else "auto",
    )
    if network and data and settings.pretrained not in (None, False):
        pretrained = problems.checked(None, find_pretrained, network, settings.base, settings.pretrained)
    if network and data and space:
        with problems.caught():
            network = start(network, space)
            check_strategy(network, space, settings)
    return network, pretrained


def check_strategy(network: Network, space: SearchSpace, settings: SearchSettings) -> None:
    """Raise if every candidate exceeds the limits, or if the strategy refuses the network or the space."""
    steps = make_replay(
        network,
        space,
        strategy=STRATEGIES[settings.strategy],
        judge="point",
        seeds=1,
        first_seed=settings.seed,
        costs=costs_of,
        limits=Limits(max_params=settings.max_params, max_macs=settings.max_macs),
    )
    if steps.rule.first and not steps.fits_any:
        params, macs = costs_of(steps.base)
        raise RequestError(
            f"no candidate would be trained. Of the first, {steps.too_large(steps.rule.first.candidate)}, "
            f"and none that would follow it fits. The base itself has {params:,} parameters and {macs:,} MACs."
        )


def _measured(
    network: Network,
    recipe: Recipe,
    data: DataInfo,
    hardware: Hardware,
    settled: Mapping[str, Any],
    seeds: int,
    address: str | None,
) -> tuple[Speed, ...]:
    """The speeds where the search will train: the base and a candidate with all seeds, at least.

    Not by the trainings of one worker, because the number of workers must not change how steps are computed.
    """
    device, threads = hardware.device, hardware.threads
    processes = processes_of(hardware.gpus_per_trial)
    asked = network, recipe, data, device, threads, settled, 2 * seeds, processes, share_of(hardware.gpus_per_trial)
    if address:
        from buildup.execution.ray_cluster import on_worker  # loads Ray
        from buildup.execution.ray_nodes import resources_of

        resources = resources_of(cpus_per_worker(hardware), hardware.gpus_per_trial, hardware.accelerator)
        return on_worker(measure_speeds, *asked, resources=resources, address=address)
    return measure_speeds(*asked) if device.startswith("cuda") else ()


def measure_speeds(
    network: Network,
    recipe: Recipe,
    data: DataInfo,
    device: str,
    threads: int,
    settled: Mapping[str, Any],
    trainings: int = 1,
    processes: int = 1,
    share: float = 1.0,
) -> tuple[Speed, ...]:
    """Measure the executions that a training may use, without those that `settled` excludes. The best comes first.

    Compiling is worth its time over all `trainings` of a worker. Of several `processes`, one is measured with its part
    of a batch, without the time that gradients take between them.
    """
    resolved = recipe.resolved(train_images=data.train_images)
    steps = trainings * resolved.epochs * max(1, data.train_images // resolved.batch_size)
    part = replace(resolved, batch_size=ceil(resolved.batch_size / processes))
    found = choose_execution(network, part, device=device, threads=threads, steps=steps, settled=settled, share=share)
    return tuple(replace(speed, train=speed.train / processes, evaluate=speed.evaluate / processes) for speed in found)
