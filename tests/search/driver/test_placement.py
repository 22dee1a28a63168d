"""What a trial asks for: arithmetic on paper, a measurement against known allocations, and one on a real Ray."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import search.driver.placement
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import EncoderSpec
from medcore.training.teacher import compute_teacher
from search.base.config import load_config
from search.base.device import host_peak
from search.driver import preflight
from search.driver.placement import CONTEXT, MARGIN, Peak, gpu_share, measure, measured_need, placed, rough_need
from search.nodes.session import Resources
from search.study.inputs import Shared, adapted_model
from tests.support.helpers import TINY, nvidia_smi, use_memory
from tests.support.study_files import write_tiny_study
from tests.support.training_samples import random_images

GIB = 2**30


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("placement"))


@pytest.fixture
def small_ray() -> Iterator[None]:
    """Two CPUs and 2 GiB: a trial is guessed at above half a gibibyte, so that it is worth measuring."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    ray.init(
        address="local", num_cpus=2, _memory=2 * GIB, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def unlike_gpus(tmp_path: Path) -> Iterator[str]:
    """Two nodes with a GPU each, of 80 and 24 GiB as far as anybody can tell; host memory for few trials. Its address.

    There is no such GPU behind them: nothing that would use it may run.
    """

    def node(name: str, megabytes: int) -> dict[str, Any]:
        path = f"{nvidia_smi(tmp_path / name, megabytes)}:{os.environ['PATH']}"
        return {"num_cpus": 4, "num_gpus": 1, "memory": 2 * GIB, "env_vars": {"PATH": path}}

    head = node("large", 81920) | {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    cluster.add_node(**node("small", 24576))
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def shared_of(config_file: Path, **search: Any) -> Shared:
    config = load_config(config_file).absolute()
    config = config.model_copy(update={"search": config.search.model_copy(update=search)})
    images, model = random_images(4), adapted_model(config)
    table: Any = None  # of no use to a dry run
    return Shared(config, model.arch, table, images, images, compute_teacher(model, images))


def test_shares_of_a_gpu_on_paper() -> None:
    assert MARGIN == 1.3 and CONTEXT == GIB / 2
    small, large = Peak(0, 4 * GIB, 80 * GIB), Peak(0, 10 * GIB, 80 * GIB)
    assert gpu_share(small, 80 * GIB) == 0.125  # 5.7 of 80
    assert gpu_share(large, 80 * GIB) == 0.25  # 13.5 of 80
    assert gpu_share(large, 16 * GIB) == 0.875  # 13.5 of 16
    assert gpu_share(small, 24 * GIB) == 0.25  # 5.7 of 24
    assert gpu_share(Peak(0, 16 * GIB, 16 * GIB), 16 * GIB) == 1.0
    assert measured_need(large, 80 * GIB) == 10.5 * GIB
    assert measured_need(large, 8 * GIB) == 8 * GIB  # it takes its batches in parts there
    assert measured_need(Peak(GIB, 0, 0), 8 * GIB) == 0


def test_the_guess_counts_the_encoders_weights_and_grows_with_the_batch() -> None:
    for arch in ARCHITECTURES.values():
        weights = cost(EncoderSpec.dense(arch)).encoder_params
        without_activations = rough_need(dataclasses.replace(arch, img_size=arch.patch_size), 1) - 2**29
        assert without_activations == pytest.approx(4 * 8 * weights, rel=0.06)
        one, two = rough_need(arch, 16), rough_need(arch, 32)
        assert 1.5 < two / one < 2


def test_the_peak_is_what_was_allocated(config_file: Path) -> None:
    shared = shared_of(config_file)
    peak = measure(shared.config, shared.calibration, shared.teacher, shared.search)
    assert (peak.gpu, peak.gpu_total) == (0, 0) or peak.gpu_total > peak.gpu > 0
    Path("/proc/self/clear_refs").write_text("5")
    before = host_peak()
    use_memory(400_000_000)
    assert host_peak() - before == pytest.approx(4e8, rel=0.1)
    measure(shared.config, shared.calibration, shared.teacher, shared.search)
    assert host_peak() - before < 2e8  # earlier peaks are forgotten


def test_memory_is_measured_once_where_it_is_short(
    config_file: Path, small_ray: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = shared_of(config_file)
    file = shared.config.folder / "placement.json"
    monkeypatch.setattr(search.placement, "_PATIENCE", 0.01)  # shorter than any measurement
    resources = placed(shared.config, shared)
    assert "waiting for a free machine to measure a trial; setting search.gpus_per_trial and" in caplog.text
    assert file.is_file() and resources.cpu == 1
    assert 1e8 < resources.memory < GIB
    written = file.stat().st_mtime_ns
    assert placed(shared.config, shared) == resources and file.stat().st_mtime_ns == written
    file.write_text('{"host": 1000, "gpu": 0, "gpu_total": 0}')
    assert placed(shared.config, shared).memory == math.ceil(1.3 * 1000)
    file.write_text("{}")
    with pytest.raises(MedcoreError, match=r"placement\.json: corrupt; delete it to measure anew"):
        placed(shared.config, shared)
    file.unlink()
    fixed = shared_of(config_file, memory_per_trial=3 * GIB, gpus_per_trial=0.5)
    assert placed(fixed.config, fixed) == Resources(1, 0.5, 3 * GIB)
    none = shared_of(config_file, memory_per_trial=None)
    assert placed(none.config, none).memory == 0
    assert not file.exists() and rough_need(TINY, 2) > GIB / 2


def test_the_share_is_that_of_the_clusters_smallest_gpu(
    config_file: Path, unlike_gpus: str, caplog: pytest.LogCaptureFixture
) -> None:
    shared = shared_of(config_file)
    shared.config.folder.mkdir(parents=True, exist_ok=True)
    file = shared.config.folder / "placement.json"

    def keep(gpu: float) -> None:
        peak = Peak(host=10**9, gpu=int(gpu * GIB), gpu_total=80 * GIB)
        file.write_text(json.dumps(dataclasses.asdict(peak)))

    def check(given: Shared) -> None:
        preflight.check(given.config, TINY, Resources(1, given.config.search.gpu_share), unlike_gpus)

    keep(4)
    assert placed(shared.config, shared) == Resources(1, 0.25, math.ceil(1.3 * 10**9))  # 5.7 of 24; host memory too
    without = shared_of(config_file, memory_per_trial=None)
    assert placed(without.config, without) == Resources(1, 0.25, 0)
    given = shared_of(config_file, gpus_per_trial=0.125)
    problem = (
        "a trial needs at least 4.8 GB of GPU memory, and gpus_per_trial 0.125 gives it 3.2 GB of 25.8 GB; "
        "set search.gpus_per_trial to 0.19 or more"
    )
    with pytest.raises(MedcoreError) as refused:
        placed(given.config, given)
    assert str(refused.value) == problem
    with pytest.raises(MedcoreError) as refused:
        check(given)
    assert re.fullmatch(rf"node \S+ \(.*\): {re.escape(problem)}", str(refused.value))  # one of the two nodes
    enough = shared_of(config_file, gpus_per_trial=0.1875)
    check(enough)
    assert placed(enough.config, enough) == Resources(1, 0.1875, math.ceil(1.3 * 10**9))
    assert not caplog.records

    keep(30)
    assert placed(shared.config, shared).gpu == 1.0
    assert "has used 32.7 GB of GPU memory and the smallest GPU has 25.8 GB: there its batches" in caplog.text
    whole = shared_of(config_file, gpus_per_trial=1)
    check(whole)
    file.unlink()
    check(given)  # nothing was measured
