"""On GPUs of different sizes, the smallest one decides the share that a trial needs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from medcore.errors import MedcoreError
from search.base.config import load_config
from search.driver import preflight
from search.driver.placement import Peak, placed
from search.nodes.session import Resources
from search.study.inputs import Shared
from tests.support.helpers import TINY, nvidia_smi
from tests.support.shared_inputs import shared_of
from tests.support.studies.study_files import write_tiny_study

GIB = 2**30


def add_unlike_gpus(cluster: Cluster, folder: Path) -> None:
    """Add two nodes with a GPU each, of 80 and 24 GiB as far as Ray can tell, and host memory for few trials.

    There is no such GPU behind them: nothing that would use it may run.
    """
    for name, megabytes in (("large", 81920), ("small", 24576)):
        path = f"{nvidia_smi(folder / name, megabytes)}:{os.environ['PATH']}"
        cluster.add_node(num_cpus=4, num_gpus=1, memory=2 * GIB, env_vars={"PATH": path})


def test_the_share_is_that_of_the_clusters_smallest_gpu(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    add_unlike_gpus(cluster, tmp_path)
    config_file = write_tiny_study(tmp_path)
    shared = shared_of(config_file)
    study = load_config(config_file).absolute().folder
    study.mkdir(parents=True, exist_ok=True)
    file = study / "placement.json"

    def keep(gpu: float) -> None:
        peak = Peak(host=10**9, gpu=int(gpu * GIB), gpu_total=80 * GIB)
        file.write_text(json.dumps(dataclasses.asdict(peak)))

    def check(given: Shared) -> None:
        config = load_config(config_file).absolute()
        files = preflight.checkpoint_files(config.model)
        gpu = given.settings.search.gpu_share
        preflight.check(preflight.Needs(study, tuple(config.data.folders), files, TINY, gpu), cluster.address)

    keep(4)
    assert placed(shared, study) == Resources(1, 0.25, math.ceil(1.3 * 10**9))  # 5.7 of 24; host memory too
    without = shared_of(config_file, memory_per_trial=None)
    assert placed(without, study) == Resources(1, 0.25, 0)
    given = shared_of(config_file, gpus_per_trial=0.125)
    problem = (
        "a trial needs at least 4.8 GB of GPU memory, and gpus_per_trial 0.125 gives it 3.2 GB of 25.8 GB; "
        "set search.gpus_per_trial to 0.19 or more"
    )
    with pytest.raises(MedcoreError) as refused:
        placed(given, study)
    assert str(refused.value) == problem
    with pytest.raises(MedcoreError) as refused:
        check(given)
    assert re.fullmatch(rf"node \S+ \(.*\): {re.escape(problem)}", str(refused.value))  # one of the two nodes
    enough = shared_of(config_file, gpus_per_trial=0.1875)
    check(enough)
    assert placed(enough, study) == Resources(1, 0.1875, math.ceil(1.3 * 10**9))
    assert not caplog.records

    keep(30)
    assert placed(shared, study).gpu == 1.0
    assert "has used 32.7 GB of GPU memory and the smallest GPU has 25.8 GB: there its batches" in caplog.text
    whole = shared_of(config_file, gpus_per_trial=1)
    check(whole)
    file.unlink()
    check(given)  # nothing was measured
