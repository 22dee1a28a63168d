"""Refit a cut model in closed form: solve for the output layers of branches and neck again (method §11)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from math import isfinite, nan

import torch
from torch import Tensor, nn

from medcore.devices import Microbatches, device_of
from medcore.errors import DataError
from medcore.models.flows import Flow, flow_of
from medcore.models.linear_map import has_bias, linear_map, set_linear_map
from medcore.models.sam import MedSam
from medcore.models.stream import Branch, TrunkModule, needed_modules, observe_branch, trunk_of
from medcore.training.loop import all_finite
from medcore.training.refit.dense_streams import DenseStreams, RefitSettings, StreamAfter, first_flow, left_out, tensors
from medcore.training.refit.least_squares import Moments, Origin, Sums
from medcore.training.refit.scratch import Floats, batches, collect

__all__ = ["BranchFit", "RefitLog", "RefitSettings", "refit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BranchFit:
    """What the refit of one branch led to.

    Errors are mean squared errors of the stream after the branch on the calibration images, as shares of the variance
    of the unpruned model's stream there.

    Attributes:
        name: name of the site, or path of a layer of the neck.
        before: error with the former weights, behind branches that are refit already.
        after: error with the new ones, never larger.
        problem: why the weights or all of the layer stayed as they were, or None.
        neck: whether it is a layer of the neck.
    """

    name: str
    before: float
    after: float
    problem: str | None = None
    neck: bool = False


@dataclass
class RefitLog:
    """What happened in a refit.

    Attributes:
        branches: the branches that were refit, in the order of the forward pass.
    """

    branches: list[BranchFit] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return errors: of the last branch, the worst of a branch, and of the neck's last layer.

        Those that are not finite are left out.
        """
        sites, necks = ([each for each in self.branches if each.neck == neck] for neck in (False, True))
        figures = {"refit_error_worst": max((each.after for each in sites if isfinite(each.after)), default=nan)}
        for last in sites[-1:]:
            figures |= {"refit_error_before": last.before, "refit_error_after": last.after}
        for last in necks[-1:]:
            figures |= {"refit_neck_error_before": last.before, "refit_neck_error_after": last.after}
        return {name: value for name, value in figures.items() if isfinite(value)}

    def notes(self, phase: str) -> dict[str, str]:
        """Return what a user should know of the refit in `phase`.

        Each text has the name of its event.
        """
        problems: dict[str, list[str]] = {}
        for branch in self.branches:
            if branch.problem is not None:
                problems.setdefault(branch.problem, []).append(branch.name)
        if not problems:
            return {}
        text = "; ".join(f"{', '.join(sites)}: {problem}" for problem, sites in problems.items())
        return {"refit_problem": f"{phase}: {text}"}


@torch.no_grad()
def refit(model: MedSam, streams: DenseStreams, settings: RefitSettings) -> RefitLog:
    """Solve for the output layers of a cut model, in place.

    Branches follow each other in the order of the forward pass, and each sees the stream that the ones before it left.
    Branches before the first cut stay as they are, bit by bit. Everything runs in float32, and the solves in float64.
    The result depends on the model and the streams only.

    Args:
        model: the cut model.
        streams: the unpruned model's streams and the calibration images that they belong to.
        settings: ridge and batch size.

    Returns:
        The errors of each branch that was refit.

    Raises:
        DataError: there are no calibration images, or the streams were recorded for fewer layers of the neck.
        CheckpointError: features and stream do not fit, as with attention "plain" in windows.
        StorageError: there is no space for the streams.
    """
    if len(streams.images) == 0:
        raise DataError("refit: needs at least one calibration image")
    trunk = trunk_of(model)
    wanted = behind_a_cut(model, trunk, streams.widths) - left_out(model, settings.neck)
    log = RefitLog()
    if not wanted:
        return log
    needed = needed_modules(trunk, wanted)
    has_wanted = [any(branch.name in wanted for branch in module.branches) for module in trunk]
    first = has_wanted.index(True)
    flow: list[Floats] = []
    for number, (entry, dense) in enumerate(zip(trunk, streams.by_module(device_of(model), wanted), strict=True)):
        if number < first or not needed[number]:
            continue
        if entry.starts or number == first:
            flow = first_flow(model, entry.path, streams.images, settings.batch_size)
        module = model.get_submodule(entry.path)
        run = _ModuleRun(entry, module, flow, settings, device_of(model))
        for place, branch in enumerate(entry.branches):
            if branch.name in wanted:
                if branch.name not in dense:
                    raise DataError(f"refit: the streams lack {branch.name}; record them with the same settings")
                log.branches.append(_fit(run, place, dense[branch.name]))
        if number + 1 < len(trunk) and needed[number + 1] and not trunk[number + 1].starts:
            flow = run.output()
    return log


def behind_a_cut(model: MedSam, trunk: tuple[TrunkModule, ...], before: tuple[int, ...] | None = None) -> set[str]:
    """Return the names of the branches that were cut, or get a stream that a cut has changed.

    Args:
        model: the cut model.
        trunk: its trunk modules.
        before: widths of the model before the cut; None for dense.
    """
    sites, widths = model.arch.sites, model.spec.widths
    earlier = model.arch.dense_widths if before is None else before
    present = {branch.name for module in trunk for branch in module.branches}
    wanted: set[str] = set()
    changed = False
    for block in range(len(model.arch.blocks)):
        inside = [number for number, site in enumerate(sites) if site.block == block]
        # what has no linear output lies around or before the branches of its block
        for number in sorted(inside, key=lambda number: sites[number].output is not None):
            changed = changed or widths[number] < earlier[number]
            if changed:
                wanted.add(sites[number].name)
        if changed:
            wanted |= {layer for layer, last in model.arch.encoder_neck.items() if last == block}
    return wanted & present


@dataclass(frozen=True)
class _ModuleRun:
    """A trunk module of the cut model, with what enters it: the stream (N, …, C) first."""

    trunk: TrunkModule
    module: nn.Module
    flow: list[Floats]
    settings: RefitSettings
    device: torch.device

    def tokens(self, place: int, rows: slice, dense: StreamAfter) -> tuple[Tensor, Tensor]:
        """Return features (T, K) and targets (T, C) of a branch for some images (11.1)."""
        branch = observe_branch(self.trunk, self.module, tensors(self.flow, rows, self.device), place)
        target = dense.batch(rows, self.device) - branch.before
        return branch.features.flatten(0, -2), target.flatten(0, -2)

    def moments(self, place: int, dense: StreamAfter) -> Moments:
        """Return the moments of a branch over all images, one batch at a time."""
        microbatches = Microbatches()
        count = len(self.flow[0])
        total: Sums | None = None
        origin: Origin | None = None

        def add_up(pieces: list[slice]) -> tuple[Sums, Origin]:
            point, result = origin, total
            for piece in pieces:
                features, targets = self.tokens(place, slice(start + piece.start, start + piece.stop), dense)
                point = point or Origin.of(features, targets)
                sums = Sums.of(features, targets, point)
                result = sums if result is None else result + sums
            assert result is not None and point is not None
            return result, point

        for rows in batches(count, self.settings.batch_size):
            start = rows.start
            total, origin = microbatches.run(rows.stop - rows.start, add_up)
        assert total is not None and origin is not None
        return Moments.of(total, origin)

    def output(self) -> list[Floats]:
        """Return what the module passes on now: the stream (N, …, C) first."""

        def work(rows: slice) -> Flow:
            return flow_of(self.module(*tensors(self.flow, rows, self.device)))

        return collect(len(self.flow[0]), self.settings.batch_size, work)


def _fit(run: _ModuleRun, place: int, dense: StreamAfter) -> BranchFit:
    """Refit one branch in place, and return its errors."""
    branch = run.trunk.branches[place]
    layer, in_neck = branch.linear_of(run.module), branch.site is None
    moments = run.moments(place, dense)
    if not has_bias(layer):
        moments = moments.about_zero()
    given = linear_map(layer)
    start = given[0].double(), given[1].double()
    if not (moments.finite and all_finite(start)):
        return _noted(BranchFit(branch.name, nan, nan, "non-finite features or weights, layer kept", in_neck))
    fitted, problem = _solved(branch, moments, start[0], run.settings.ridge)
    candidates = [fitted, (start[0], moments.bias(start[0])), start]
    # rounded first, so that the error is that of the weights that the model gets
    rounded = [tuple(value.to(given[0].dtype).double() for value in candidate) for candidate in candidates]
    errors = [moments.error(weight, bias) for weight, bias in rounded]
    weight, bias = rounded[errors.index(min(errors))]
    set_linear_map(layer, weight, bias)
    scale = max(dense.variance, torch.finfo(torch.float32).tiny)
    return _noted(BranchFit(branch.name, errors[-1] / scale, min(errors) / scale, problem, in_neck))


def _solved(branch: Branch, moments: Moments, start: Tensor, ridge: float) -> tuple[tuple[Tensor, Tensor], str | None]:
    """Return the weight and bias that fit best, and why the weight stays if it does."""
    weight = moments.solve(start, ridge) if branch.width else start
    if weight is None:
        return (start, moments.bias(start)), "linearly dependent features, at most the bias refit"
    return (weight, moments.bias(weight)), None


def _noted(fit: BranchFit) -> BranchFit:
    if fit.problem is not None:
        logger.warning("refit of %s: %s", fit.name, fit.problem)
    return fit
