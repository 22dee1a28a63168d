"""The state of sending, without a server."""

from __future__ import annotations

import time

import pytest

from medcore.errors import MedcoreError, TrackingError
from search.tracking.delivery import Deadline, Delivery, OutOfTimeError, UploadSchedule


def test_the_first_deadline_holds() -> None:
    deadline = Deadline(0.05)
    time.sleep(0.1)
    deadline.check()
    deadline.set()
    time.sleep(0.1)
    deadline.set()
    with pytest.raises(OutOfTimeError):
        deadline.check()
    assert deadline.passed


def test_a_corrupt_trial_is_named_once_until_it_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    delivery = Delivery("MLflow")

    def send(error: Exception | None) -> None:
        with delivery.skipping("t0001"):
            if error is not None:
                raise error

    send(MedcoreError("corrupt"))
    send(MedcoreError("corrupt"))
    assert delivery.corrupt == {"t0001"} and not delivery.complete
    assert [record.message for record in caplog.records] == ["trial t0001 is not sent to MLflow: corrupt"]
    with pytest.raises(TrackingError):  # the server, not the trial
        send(TrackingError("away"))
    send(None)
    assert delivery.complete
    send(MedcoreError("corrupt"))
    assert len(caplog.records) == 2


def test_uploads_wait_in_proportion_to_what_they_take() -> None:
    schedule = UploadSchedule(0)
    assert schedule.is_due(1) and not schedule.is_due(0)
    now = time.monotonic()
    schedule.uploaded(1, now - 1)  # it took a second
    assert not schedule.is_due(1) and not schedule.is_due(2)
    instant = UploadSchedule(0)
    instant.uploaded(2, time.monotonic() + 1)  # it took no time at all
    assert not instant.is_due(2) and instant.is_due(3)
