"""Trainings shared out over processes (Gloo, CPU) against the same training in one process."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

import medcore.training.train
from medcore.errors import MedcoreError
from medcore.training.train import TrainLog, TrainSettings, train
from medcore.training.world import World
from tests.support.training_samples import assert_close, assert_same, random_images, tiny_model, weights

#: Five images in batches of 4 and 1: no number of processes here divides them.
SETTINGS = TrainSettings(epochs=2, lr=1e-3, batch_size=4, horizontal_flip=True, vertical_flip=True)
ONE = dataclasses.replace(SETTINGS, epochs=1)
#: Block 1 has no heads, so some parameters have no entries.
HEADS = (3, 0, 1, 3)


def uneven(world: World, folder: Path) -> Any:
    model = tiny_model(heads=HEADS)
    log = train(model, random_images(5), random_images(3, seed=1), SETTINGS, seed=1, world=world)
    return log, weights(model)


def smaller_than_the_world(world: World, folder: Path) -> Any:
    model = tiny_model()
    log = train(model, random_images(1), random_images(1, seed=1), ONE, seed=2, world=world)
    return log, weights(model)


def resumed(world: World, folder: Path) -> Any:
    model, rows = tiny_model(), []
    path = folder / "resumed.state"
    log = train(model, random_images(5), None, SETTINGS, 3, on_epoch=rows.append, state_path=path, world=world)
    return log, weights(model), [row.epoch for row in rows]


def out_of_memory(world: World, folder: Path) -> Any:
    """The last process has memory for one image at a time."""
    whole = medcore.training.train._loss

    def narrow(model: Any, batch: Any, autocast: bool) -> torch.Tensor:
        if len(batch[0]) > 1:
            raise torch.OutOfMemoryError("no room for more than one")
        return whole(model, batch, autocast)

    if world.rank == world.size - 1:
        medcore.training.train._loss = narrow
    try:
        return uneven(world, folder)
    finally:
        medcore.training.train._loss = whole


def non_finite(world: World, folder: Path) -> Any:
    """One process alone finds its weights broken."""
    model = tiny_model()

    def poison(row: Any) -> None:  # called in the first process
        with torch.no_grad():
            model.image_encoder.pos_embed.fill_(torch.nan)

    log = train(model, random_images(4), None, SETTINGS, seed=0, on_epoch=poison, world=world)
    return log, all(value.isfinite().all() for value in weights(model).values())


def not_shared(world: World, folder: Path) -> Any:
    """Only the first process finds the state."""
    path = folder / ("early.state" if world.rank == 0 else "elsewhere.state")
    return complaint(world, path)


def broken_in_one(world: World, folder: Path) -> Any:
    """Only the last process finds a file that is no state."""
    last = world.rank == world.size - 1
    if last:
        (folder / "broken").write_text("no state")
    return complaint(world, folder / ("broken" if last else "early.state"))


def unwritable(world: World, folder: Path) -> Any:
    return complaint(world, folder / "missing" / "training.state")


def complaint(world: World, path: Path) -> str:
    with pytest.raises(MedcoreError) as caught:
        train(tiny_model(), random_images(5), None, SETTINGS, 3, state_path=path, world=world)
    return f"{type(caught.value).__name__}: {caught.value}"


STORIES = (uneven, smaller_than_the_world, resumed, out_of_memory, non_finite, not_shared, broken_in_one, unwritable)


def process(rank: int, size: int, folder: Path) -> None:
    """All stories in one process of a group."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    world = World(rank, size)
    results = {story.__name__: story(world, folder) for story in STORIES}
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def interrupted(path: Path) -> None:
    """The state that a training in one process leaves after its first epoch."""

    def interrupt(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), random_images(5), None, SETTINGS, 3, on_epoch=interrupt, state_path=path)


@pytest.fixture(scope="module", params=[2, 3])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the stories came to in each process."""
    folder, size = tmp_path_factory.mktemp("world"), request.param
    interrupted(folder / "early.state")
    interrupted(folder / "resumed.state")
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload([__name__])  # or each process would import torch for itself, which takes seconds
    group = [fresh.Process(target=process, args=(rank, size, folder)) for rank in range(size)]
    for member in group:
        member.start()
    for member in group:
        member.join()
    assert [member.exitcode for member in group] == [0] * size
    assert sorted(folder.glob("*.state")) == [folder / "early.state", folder / "resumed.state"]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def assert_like_one_process(results: list[Any], log: TrainLog, alone: dict[str, torch.Tensor]) -> None:
    for found, after, *_ in results:
        assert_same(results[0][1], after)
        assert_close(alone, after)
        assert found == results[0][0]
        assert (found.best_epoch, found.stopped, len(found.epochs)) == (log.best_epoch, log.stopped, len(log.epochs))
        for ours, theirs in zip(found.epochs, log.epochs, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
            assert ours.val_loss == (theirs.val_loss and pytest.approx(theirs.val_loss, rel=1e-5))


@pytest.mark.parametrize("story", [uneven, smaller_than_the_world])
def test_several_processes_end_in_the_weights_of_one(story: Any, told: list[dict[str, Any]], tmp_path: Path) -> None:
    assert_like_one_process([results[story.__name__] for results in told], *story(World(), tmp_path))


def test_one_process_may_take_its_share_in_parts(told: list[dict[str, Any]], tmp_path: Path) -> None:
    assert_like_one_process([results["out_of_memory"] for results in told], *uneven(World(), tmp_path))


def test_a_training_goes_on_with_another_number_of_processes(told: list[dict[str, Any]]) -> None:
    model = tiny_model()
    log = train(model, random_images(5), None, SETTINGS, seed=3)
    assert_like_one_process([results["resumed"] for results in told], log, weights(model))
    # only the first process tells of epochs, and only of new ones
    assert [results["resumed"][2] for results in told] == [[1]] + [[]] * (len(told) - 1)


def test_what_one_process_finds_ends_the_training_in_all(told: list[dict[str, Any]]) -> None:
    for results in told:
        log, finite = results["non_finite"]
        assert finite and len(log.epochs) == 1
        assert log.stopped == "non-finite loss or gradient at step 0 of epoch 1"
        assert "not every process finds the same state; put it on storage that all nodes share" in results["not_shared"]
    assert "cannot write the training state" in told[0]["unwritable"]
    elsewhere = "FailedElsewhere: another process of the training failed and says why"
    assert {results["unwritable"] for results in told[1:]} == {elsewhere}
    assert {results["broken_in_one"] for results in told[:-1]} == {elsewhere}
    assert "not a training state" in told[-1]["broken_in_one"]


@pytest.mark.parametrize(("count", "size"), [(8, 1), (8, 3), (5, 3), (2, 3), (1, 2)])
def test_shares_cover_a_batch_once(count: int, size: int) -> None:
    seen, total = [], 0.0
    for rank in range(size):
        part, weight = World(rank, size).share(count)
        assert part.stop - part.start in (count // size, -(-count // size)) or weight == 0
        total += weight
        if weight:
            seen += range(count)[part]
    assert seen == list(range(count)) and total == pytest.approx(1)
