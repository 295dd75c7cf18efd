"""What is found out on the machines of a cluster, on a real one."""

import os
import sys
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

import buildup
from buildup.errors import DataError, ResourceError
from buildup.execution.ray_cluster import gpus_of, on_worker

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
SEARCH = {"base": "resnet6", "dataset": "digits", "epochs": 1, "seeds": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that says it has a GPU, which is all that Ray knows of it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


def where(value: int) -> tuple[int, int]:
    return os.getpid(), value


def refusing() -> None:
    raise DataError("no images")


def failing() -> None:
    raise ZeroDivisionError("one line\nthe last line")


def test_a_function_is_called_in_a_worker_and_its_errors_come_back_as_sentences(address: str) -> None:
    process, value = on_worker(where, 7, cpus=1, gpus=0, address=address)
    assert value == 7
    assert process != os.getpid()
    with pytest.raises(DataError, match=r"^no images$"):
        on_worker(refusing, cpus=1, gpus=0, address=address)
    with pytest.raises(ResourceError, match=f"{address} can't train: the last line"):
        on_worker(failing, cpus=1, gpus=0, address=address)
    with pytest.raises(ResourceError, match="1 workers with 1 CPU and 3 GPU each do not fit"):
        on_worker(where, 7, cpus=1, gpus=3, address=address)
    assert gpus_of(address) == 1
    assert not ray.is_initialized()


def test_a_search_on_a_cluster_takes_its_gpus_although_the_driver_has_none(address: str) -> None:
    # The worker gets the GPU that the cluster promised, and finds none.
    with pytest.raises(ResourceError, match=r"A worker of the Ray cluster at .* can't train: .*NVIDIA"):
        buildup.plan(**SEARCH, ray=address)  # type: ignore[arg-type]


def test_the_speed_of_a_plan_is_that_of_a_worker(address: str) -> None:
    made = buildup.plan(**SEARCH, ray=address, device="cpu")  # type: ignore[arg-type]
    (speed,) = made.request.speeds
    assert made.request.settings.device == "cpu"
    assert made.images_per_second == 1 / speed.train
