"""A search as a job of a running Ray cluster: submit it, look at it, stop it. Ray's own job client does the talking."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medcore.errors import MedcoreError
from medcore.files import first_line
from search.base.config import Config
from search.base.logins import hide_login
from search.base.provenance import RESUME_COMMAND, REVISION, git_revision
from search.commands.cluster.job_files import CONFIG_NAME, package, pinned, relative_paths
from search.nodes.probe import code_folders

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Trials that run are killed at once when a job is stopped, but sending what MLflow misses may take five minutes.
_STOP_SECONDS = "360"
#: That a dashboard may take to say that it is there: a tunnel whose far end has died accepts connections for ever.
_PATIENCE = 10.0
_STUDY = "medcore_study"
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Job:
    """One job as a user sees it."""

    id: str
    status: str
    study: str
    started: str
    message: str


def submit(
    config: Config,
    address: str,
    options: Mapping[str, object],
    resume: bool,
    *,
    folder: Path,
    resume_command: str,
    constraints: Path | None = None,
) -> str:
    """Send a search to a cluster; returns the job's id.

    The code that submits is the code that runs, on every node. Data, checkpoints and output stay where they are.

    Args:
        config: resolved; its paths must be absolute and mean the same on all nodes.
        options: further options of `medcore search`; None is left out.
        folder: what goes along, see `search.commands.cluster.job_files.package`.
        constraints: versions that each node installs for the job; None: nothing is installed.

    Raises:
        MedcoreError: the cluster cannot be reached or wants another token, paths are relative, the files too large, or
            an address holds a login.
    """
    if wrong := relative_paths(config):
        raise MedcoreError(
            f"{', '.join(wrong)}: give absolute paths that all nodes of the cluster see, because the job runs elsewhere"
        )
    if any(hide_login(text) != text for text in (config.to_yaml(), *map(str, options.values()))):
        raise MedcoreError(
            "a login in the configuration or in an option would be shown with the job; keep it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials, on the cluster"
        )
    words = ["python", "-m", "search.cli", "search", CONFIG_NAME, "--ray-address", "auto"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    environment = {
        RESUME_COMMAND: resume_command,
        REVISION: git_revision(),
        "RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS,
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryDirectory() as place, jobs(address) as client:
        archive = Path(place) / "job.zip"
        package(folder, config, archive)
        runtime: dict[str, Any] = {
            "working_dir": str(archive),
            "py_modules": [str(folder) for folder in code_folders()],
            "env_vars": environment,
        }
        if constraints is not None:
            runtime["pip"] = {"packages": pinned(constraints)}
        study = config.output / str(options.get("name") or config.study)
        return str(
            client.submit_job(
                entrypoint=shlex.join([*words, "--resume"] if resume else words),
                runtime_env=runtime,
                metadata={_STUDY: str(study)},
            )
        )


def status(address: str, job: str | None = None) -> list[Job]:
    """One job, or all of a cluster, the newest first."""
    with jobs(address) as client:
        found = [client.get_job_info(job)] if job is not None else client.list_jobs()
    return [_job(item) for item in sorted(found, key=lambda item: item.start_time or 0, reverse=True)]


def logs(address: str, job: str, follow: bool, write: Callable[[str], object]) -> None:
    """What a job has printed so far; with `follow` also what it prints until it ends."""
    with jobs(address) as client:
        client.get_job_info(job)  # an unknown job is told apart here: following one would wait
        if not follow:
            write(client.get_job_logs(job))
            return

        async def tail() -> None:
            async for text in client.tail_job_logs(job):
                write(text)

        asyncio.run(tail())


def stop(address: str, job: str) -> bool:
    """Ask a job to end, as Ctrl-C does; returns whether it was running. Rows stay, and `--resume` goes on from them."""
    with jobs(address) as client:
        return bool(client.stop_job(job))


@contextmanager
def jobs(address: str) -> Iterator[JobSubmissionClient]:
    """Ray's job client; whatever goes wrong with it in the block becomes one line.

    The client takes variables before its argument, and sends a token only if RAY_AUTH_MODE said so when Ray was
    imported; so both are set first, and no module on top of this one imports Ray.
    """
    url = http_address(address)
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        requests.get(f"{url}/api/version", timeout=_PATIENCE)  # Ray's client waits without end
        yield JobSubmissionClient(url)
    except AuthenticationError as error:
        raise MedcoreError(f"{url}: {_token_problem(error)}") from None
    except (OSError, requests.RequestException, aiohttp.ClientError) as error:
        raise MedcoreError(
            f"{url}: no Ray dashboard can be reached ({first_line(error)}); is the address right, and the tunnel open "
            "(`ray dashboard`, `kubectl port-forward` or ssh)?"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise MedcoreError(f"{url}: {_reason(error)}") from None


def http_address(address: str) -> str:
    """The dashboard's address as Ray's job client wants it. Raises `MedcoreError` for other kinds, and for a login."""
    url = address if "://" in address else f"http://{address}"
    if (public := hide_login(url)) != url:
        raise MedcoreError(
            f"{public}: a login in the address would be shown; give the address alone, and put the cluster's token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MedcoreError(f"{address}: give the address of the cluster's dashboard, such as http://HEAD:8265")
    return url.rstrip("/")


def has_token() -> bool:
    """Whether Ray's token is where Ray looks for it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()


def _token_problem(error: Exception) -> str:
    advice = "put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
    if "Authentication required" in str(error):
        return f"the cluster asks for a token and got none; {advice}"
    return f"the cluster does not accept this token; {advice}"


def _reason(error: Exception) -> str:
    from search.nodes.session import one_line

    text = str(error)
    if "does not exist" in text:
        return f"{text[text.rfind('Job ') :].rstrip('.')}; `medcore cluster status` lists the jobs"
    if "Version check returned 404" in text:
        return "something answers here, but it is no Ray dashboard"
    return one_line(error)


def _job(item: JobDetails) -> Job:
    from search.nodes.session import one_line

    started = datetime.fromtimestamp((item.start_time or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    name = str(item.submission_id or item.job_id)
    study = (item.metadata or {}).get(_STUDY, "")
    return Job(name, str(getattr(item.status, "value", item.status)), study, started, one_line(item.message or ""))
