"""Resources of a trial: by hand, against known allocations, and on a real Ray."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
import ray
import torch

import search.driver.placement
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.training.refit.dense_streams import DenseStreams, ModuleStreams
from search.base.config import load_config
from search.base.device import host_peak
from search.driver.placement import CONTEXT, MARGIN, Peak, gpu_share, measure, measured_need, placed, rough_need
from search.nodes.session import Resources
from tests.support.helpers import TINY, use_memory
from tests.support.shared_inputs import shared_of
from tests.support.studies.study_files import write_tiny_study

pytestmark = pytest.mark.usefixtures("local_ray")

GIB = 2**30


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("placement"))


@pytest.fixture
def small_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the local Ray to 2 GiB. The estimate of a trial exceeds half a gibibyte, so preflight measures it."""
    nodes = [node | {"Resources": {"CPU": 2.0, "memory": 2.0 * GIB}} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


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
    for arch in (known for known in ARCHITECTURES.values() if isinstance(known, SamVit)):
        weights = cost(ModelSpec.dense(arch)).encoder_params
        without_activations = rough_need(dataclasses.replace(arch, img_size=arch.patch_size), 1) - 2**29
        assert without_activations == pytest.approx(4 * 8 * weights, rel=0.06)
        one, two = rough_need(arch, 16), rough_need(arch, 32)
        assert 1.5 < two / one < 2


class SeenStreams:
    """Streams that count how often a refit reads them."""

    def __init__(self, streams: DenseStreams) -> None:
        self.streams, self.reads = streams, 0
        self.images, self.widths = streams.images, streams.widths

    def by_module(self, device: torch.device, wanted: Container[str] | None = None) -> Iterator[ModuleStreams]:
        self.reads += 1
        return self.streams.by_module(device, wanted)


def test_the_peak_is_what_was_allocated(config_file: Path) -> None:
    shared = shared_of(config_file)
    assert shared.streams is not None
    seen = SeenStreams(shared.streams)
    peak = measure(shared.settings, shared.calibration, shared.teacher, shared.search_images, seen)
    assert seen.reads == 1  # a trial's refit counts
    assert (peak.gpu, peak.gpu_total) == (0, 0) or peak.gpu_total > peak.gpu > 0
    Path("/proc/self/clear_refs").write_text("5")
    before = host_peak()
    use_memory(400_000_000)
    assert host_peak() - before == pytest.approx(4e8, rel=0.1)
    measure(shared.settings, shared.calibration, shared.teacher, shared.search_images, None)
    assert host_peak() - before < 2e8  # earlier peaks are forgotten


def test_memory_is_measured_once_where_it_is_short(
    config_file: Path, small_node: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = shared_of(config_file)
    study = load_config(config_file).absolute().folder
    file = study / "placement.json"
    monkeypatch.setattr(search.driver.placement, "_PATIENCE", 0.01)  # shorter than any measurement
    resources = placed(shared, study)
    assert "waiting" in caplog.text and "search.gpus_per_trial" in caplog.text
    assert file.is_file() and resources.cpu == 1
    assert 1e8 < resources.memory < GIB
    written = file.stat().st_mtime_ns
    assert placed(shared, study) == resources and file.stat().st_mtime_ns == written
    file.write_text('{"host": 1000, "gpu": 0, "gpu_total": 0}')
    assert placed(shared, study).memory == math.ceil(1.3 * 1000)
    file.write_text("{}")
    with pytest.raises(MedcoreError, match=r"placement\.json: corrupt; delete it to measure again"):
        placed(shared, study)
    file.unlink()
    fixed = shared_of(config_file, memory_per_trial=3 * GIB, gpus_per_trial=0.5)
    assert placed(fixed, study) == Resources(1, 0.5, 3 * GIB)
    none = shared_of(config_file, memory_per_trial=None)
    assert placed(none, study).memory == 0
    assert not file.exists() and rough_need(TINY, 2) > GIB / 2
