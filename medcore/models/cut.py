"""Remove groups physically (`prune`), silence them (`mask_model`), or fill up with zeros (`pad`); all agree.

`with_parts` says of which parts of a model groups can be removed.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medcore.models.flows import like_output
from medcore.models.groups import kept_entries
from medcore.models.masks import keep_all, masks_without_outputs, narrowed
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.sites import PerSite, by_family, from_families
from medcore.models.spec import ModelSpec


def with_parts(model: MedSam, parts: Sequence[str], where: str = "model") -> MedSam:
    """Return the same model, of which other parts can be pruned.

    Args:
        model: dense or pruned; the result has the same tensors.
        parts: as `Architecture.parts`.
        where: place of the model, for messages.

    Raises:
        CheckpointError: see `ModelSpec.with_parts`.
    """
    if tuple(parts) == model.arch.parts:
        return model
    other = copy.copy(model)
    other.spec = model.spec.with_parts(parts, where)
    if model.kept is not None:
        whole = by_family(other.arch.sites, keep_all(ModelSpec.dense(other.arch)))
        known = by_family(model.arch.sites, model.kept)
        kept = {family: known.get(family, masks) for family, masks in whole.items()}
        other.kept = tuple(from_families(other.arch.sites, kept))
    return other


def prune(model: MedSam, masks: PerSite) -> MedSam:
    """Build a physically smaller model that keeps the groups whose mask is True.

    `model` stays as it is.

    Args:
        model: dense or pruned.
        masks: bool, one for each group that `model` has now (its current widths, not the dense).

    Returns:
        A model on the same device, in the same mode, that shares no tensor with `model`. What belongs to no group
        stays, also at a site that loses all of its groups (method §2). Its `kept` follows from that of `model`.

    Raises:
        ValueError: the masks do not fit the model's widths or are not boolean.
    """
    _check(model, masks)
    spec = ModelSpec(model.arch, tuple(int(keep.sum()) for keep in masks))
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for site, width, mask in zip(model.arch.sites, spec.widths, masks, strict=True):
        # a site within a cut group loses all groups, even those that its own mask keeps
        keep = torch.tensor(mask, device=model.device) & bool(width)
        for part in site.tensors:
            if part.name not in state:
                continue
            if part.axis is not None:
                entries = kept_entries(part, keep).nonzero().squeeze(1)
                state[part.name] = state[part.name].index_select(part.axis, entries)
            elif not keep.any():
                del state[part.name]
    smaller = adopt(build_empty(spec, model.attention), state)
    if model.kept is not None:
        widths = zip(masks, spec.widths, strict=True)
        smaller.kept = narrowed(model.kept, tuple(mask & bool(width) for mask, width in widths))
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable[name])
    smaller.train(model.training)
    return smaller


def without_outputs(model: MedSam, names: Collection[str], where: str = "model") -> MedSam:
    """Return a model without outputs of its decoder that have no part in the answer to a box.

    Args:
        model: dense or pruned.
        names: of outputs in `FREE`.
        where: place of the model, for messages.

    Raises:
        CheckpointError: see `masks_without_outputs`.
    """
    return prune(model, masks_without_outputs(model.spec, names, where)) if names else model


def mask_model(model: MedSam, masks: PerSite) -> MedSam:
    """Copy a model and multiply the output of every group whose mask is False by 0.

    The copy has the same widths.

    Args:
        model: dense or pruned.
        masks: bool, one for each group that `model` has now.

    Returns:
        The copy, on the same device and in the same mode.

    Raises:
        ValueError: the masks do not fit the model's widths or are not boolean.
    """
    _check(model, masks)
    silenced = copy.deepcopy(model)
    for site, mask in zip(model.arch.sites, masks, strict=True):
        if site.is_bypassed and not mask.all():
            silenced.get_submodule(site.watch.module).register_forward_hook(_pass_by)
    tensors: dict[str, Tensor] = silenced.state_dict()
    with torch.no_grad():
        for site, mask in zip(model.arch.sites, masks, strict=True):
            gone = torch.tensor(~mask, device=model.device)
            for part in site.tensors:
                if not part.output or part.name not in tensors:
                    continue
                if part.axis is not None:
                    tensors[part.name].index_fill_(part.axis, kept_entries(part, gone).nonzero().squeeze(1), 0.0)
                elif gone.any():
                    tensors[part.name].zero_()
    return silenced


def _pass_by(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    return like_output(output, inputs)


def pad(model: MedSam) -> MedSam:
    """Build a model of the dense shapes that computes the same, with zeros for the groups that are gone.

    The groups that are left come first at each site, in their order. `model` stays as it is.

    Args:
        model: dense or pruned; its sites keep their tensors when they lose all groups.

    Returns:
        A dense model on the same device, in the same mode, that shares no tensor with `model`.

    Raises:
        ValueError: a group that is gone is a whole tensor, which has no place for zeros.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for site, width in zip(model.arch.sites, model.spec.widths, strict=True):
        for part in site.tensors:
            if part.axis is None:
                if width:
                    continue
                raise ValueError(f"{part.name} is gone as a whole")
            tensor = state[part.name].movedim(part.axis, 0)
            # (outer·width·inner, ...) -> (outer, width, inner, ...)
            wide = tensor.new_zeros(part.outer, site.width, part.inner, *tensor.shape[1:])
            wide[:, :width] = tensor.reshape(part.outer, width, part.inner, *tensor.shape[1:])
            state[part.name] = wide.flatten(0, 2).movedim(0, part.axis).contiguous()
    whole = adopt(build_empty(ModelSpec.dense(model.arch), model.attention), state)
    whole.train(model.training)
    return whole


def _check(model: MedSam, masks: PerSite) -> None:
    sizes = tuple(mask.shape for mask in masks)
    if sizes != tuple((width,) for width in model.spec.widths):
        raise ValueError(f"masks have shapes {sizes}, the model has widths {model.spec.widths}")
    if any(mask.dtype != bool for mask in masks):
        raise ValueError("masks must be boolean")
