"""A Ray cluster on this machine, which the tests of one process share."""

import os
from collections.abc import Iterator

import pytest

PATIENCE = "600"  # seconds: machines are busy


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Address of a cluster of two nodes with one processor each, started without any S3 keys."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        started = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        started.add_node(wait=False, num_cpus=1)
        started.wait_for_nodes(timeout=int(PATIENCE))
    try:
        yield started.address
    finally:
        started.shutdown()
