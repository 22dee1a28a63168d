"""Searches as jobs of a running Ray cluster: submit, list, follow and stop them through Ray's own job client."""

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

from medcore.errors import ClusterError, brief
from medcore.registry import plugin_variables
from search.base.config import Config
from search.base.logins import hide_login
from search.base.provenance import REVISION, git_revision
from search.base.shell import RESUME_COMMAND, option_words
from search.commands.cluster.job_files import CONFIG_NAME, package, pinned, relative_paths
from search.nodes.probe import code_folders

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Time for a stopped job to end. Its trials are killed at once, but sending rows to MLflow may take five minutes.
_STOP_SECONDS = "360"
#: Seconds for a dashboard to answer. A tunnel whose far end has died would accept connections for ever.
_PATIENCE = 10.0
_STUDY = "medcore_study"
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Job:
    """One job as a user sees it.

    Attributes:
        id: Id that Ray gave the job.
        status: Ray's word for its state.
        study: The study's folder.
        started: Date and time, UTC.
        message: What Ray says about the state, one line.
    """

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
    """Send a search to a cluster, and return the job's id.

    Every node runs the code that submits. Data, checkpoints and output stay where they are.

    Args:
        config: Resolved configuration. Its paths must be absolute and have the same meaning on all nodes.
        address: The cluster's dashboard.
        options: Further options of `medcore search`; those that are None are left out.
        resume: Whether to resume a study.
        folder: Folder to send along, see `search.commands.cluster.job_files.package`.
        resume_command: What the user types to resume.
        constraints: Versions that each node installs for the job; None to install nothing.

    Raises:
        MedcoreError: The cluster cannot be reached or rejects the token, a path is relative, the files are too large,
            or an address holds a login.
    """
    if wrong := relative_paths(config):
        raise ClusterError(
            f"{', '.join(wrong)}: give absolute paths that all nodes of the cluster see, because the job runs elsewhere"
        )
    if any(hide_login(text) != text for text in (config.to_yaml(), *map(str, options.values()))):
        raise ClusterError(
            "a login in the configuration or in an option would be shown with the job; keep it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials, on the cluster"
        )
    words = ["python", "-m", "search.cli", "search", CONFIG_NAME, "--ray-address", "auto", *option_words(options)]
    study = config.output / str(options.get("name") or config.study)
    with tempfile.TemporaryDirectory() as place, jobs(address) as client:
        archive = Path(place) / "job.zip"
        package(folder, config, archive)
        runtime = runtime_env(archive, resume_command)
        if constraints is not None:
            runtime["pip"] = {"packages": pinned(constraints)}
        return str(
            client.submit_job(
                entrypoint=shlex.join([*words, "--resume"] if resume else words),
                runtime_env=runtime,
                metadata={_STUDY: str(study)},
            )
        )


def runtime_env(archive: Path, resume_command: str) -> dict[str, Any]:
    """Return Ray's runtime environment of a job.

    It has the job's files, this code, and the job's environment variables.
    """
    return {
        "working_dir": str(archive),
        "py_modules": [str(folder) for folder in code_folders()],
        "env_vars": {
            RESUME_COMMAND: resume_command,
            REVISION: git_revision(),
            "RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS,
            "PYTHONUNBUFFERED": "1",
            **plugin_variables(),
        },
    }


def status(address: str, job: str | None = None) -> list[Job]:
    """Return one job, or all jobs of a cluster, the newest first."""
    with jobs(address) as client:
        listed = [client.get_job_info(job)] if job is not None else client.list_jobs()
    return [_job(item) for item in sorted(listed, key=lambda item: item.start_time or 0, reverse=True)]


def logs(address: str, job: str, follow: bool, write: Callable[[str], object]) -> None:
    """Write what a job has printed so far.

    With `follow`, also write what it prints until it ends.
    """
    with jobs(address) as client:
        client.get_job_info(job)  # raises for an unknown job, which following would wait for
        if not follow:
            write(client.get_job_logs(job))
            return

        async def tail() -> None:
            async for text in client.tail_job_logs(job):
                write(text)

        asyncio.run(tail())


def stop(address: str, job: str) -> bool:
    """Stop a job as Ctrl-C does, and return whether it was running.

    `--resume` continues from its rows.
    """
    with jobs(address) as client:
        return bool(client.stop_job(job))


@contextmanager
def jobs(address: str) -> Iterator[JobSubmissionClient]:
    """Yield Ray's job client. Its errors in the block become one line.

    The client prefers environment variables to its argument, and sends a token only if RAY_AUTH_MODE was set when Ray
    was imported. So both are set first, and the modules that lead here do not import Ray.

    Raises:
        MedcoreError: The cluster cannot be reached, rejects the token, or reports an error.
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
        raise ClusterError(f"{url}: {_token_problem(error)}") from None
    except (OSError, requests.RequestException, aiohttp.ClientError) as error:
        raise ClusterError(
            f"{url}: no Ray dashboard can be reached ({brief(error, first=120)}); is the address right, and the "
            "tunnel open (`ray dashboard`, `kubectl port-forward` or ssh)?"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise ClusterError(f"{url}: {_reason(error)}") from None


def http_address(address: str) -> str:
    """Return the dashboard's address in the form that Ray's job client expects.

    Raises:
        MedcoreError: The address is of another kind, or holds a login.
    """
    url = address if "://" in address else f"http://{address}"
    if (public := hide_login(url)) != url:
        raise ClusterError(
            f"{public}: a login in the address would be shown; give the address alone, and put the cluster's token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"{address}: give the address of the cluster's dashboard, such as http://HEAD:8265")
    return url.rstrip("/")


def has_token() -> bool:
    """Return whether Ray's token is where Ray looks for it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    place = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")  # noqa: PTH111 - never raises
    return Path(place).is_file()


def _token_problem(error: Exception) -> str:
    advice = "put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
    if "Authentication required" in str(error):
        return f"the cluster asks for a token and got none; {advice}"
    return f"the cluster does not accept this token; {advice}"


def _reason(error: Exception) -> str:
    text = str(error)
    if "does not exist" in text:
        return f"{text[text.rfind('Job ') :].rstrip('.')}; `medcore cluster status` lists the jobs"
    if "Version check returned 404" in text:
        return "something answers here, but it is no Ray dashboard"
    return brief(error, last=200)


def _job(item: JobDetails) -> Job:
    started = datetime.fromtimestamp((item.start_time or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    name = str(item.submission_id or item.job_id)
    study = (item.metadata or {}).get(_STUDY, "")
    return Job(
        name, str(getattr(item.status, "value", item.status)), study, started, brief(item.message or "", last=200)
    )
