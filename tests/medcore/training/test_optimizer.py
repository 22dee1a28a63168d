from __future__ import annotations

import functools
import pickle
from collections.abc import Callable

import torch

from medcore.training.loop import AdamW

#: The same in one operation for all parameters.
FUSED = functools.partial(torch.optim.AdamW, fused=True)


def trained(
    kind: Callable[..., torch.optim.AdamW], state: bytes | None = None
) -> tuple[torch.nn.Module, torch.optim.AdamW]:
    """A layer after three steps, in which a rate falls; or after three more that continue from a saved state."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    optimizer = kind(layer.parameters(), lr=0.1, weight_decay=0.05)
    if state is not None:
        weights, saved = pickle.loads(state)
        layer.load_state_dict(weights)
        optimizer.load_state_dict(saved)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad(set_to_none=True)
        layer(torch.arange(8.0).reshape(2, 4)).sin().sum().backward()
        optimizer.step()
    return layer, optimizer


def saved(layer: torch.nn.Module, optimizer: torch.optim.AdamW) -> bytes:
    return pickle.dumps((layer.state_dict(), optimizer.state_dict()))


def test_steps_and_states_are_torchs_bit_for_bit() -> None:
    ours, theirs = trained(AdamW), trained(FUSED)
    assert str(ours[1].state_dict()) == str(theirs[1].state_dict())
    # states of each are read by the other
    ours, theirs = trained(AdamW, saved(*theirs)), trained(FUSED, saved(*ours))
    for mine, other in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        assert torch.equal(mine, other) and not mine.equal(torch.zeros_like(mine))
    for index, state in ours[1].state_dict()["state"].items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, theirs[1].state_dict()["state"][index][key]) for key, value in state.items())


def test_steps_are_those_of_the_plain_loop_and_a_state_of_the_loop_goes_on_as_one() -> None:
    ours, loop = trained(AdamW), trained(torch.optim.AdamW)
    for mine, other in zip(ours[0].parameters(), loop[0].parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    state = saved(*loop)
    for mine, other in zip(
        trained(AdamW, state)[0].parameters(), trained(torch.optim.AdamW, state)[0].parameters(), strict=True
    ):
        assert torch.equal(mine, other)


def test_an_optimizer_takes_a_closure_with_gradients() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight])

    def loss() -> torch.Tensor:
        value = (weight * weight).sum()
        value.backward()
        return value

    assert optimizer.step(loss).item() == 2.0 and torch.equal(weight.grad, torch.full((2,), 2.0))
