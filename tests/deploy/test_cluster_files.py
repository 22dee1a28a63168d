"""Every file under cluster/ against the validator of the program that reads it, and what all of them must have."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.cluster_files import CLUSTER, FILES, PINS, ROOT, name
from tests.support.kuberay_schema import RAY_CLUSTER, RAY_JOB

LAUNCHERS = sorted((CLUSTER / "ray").glob("*.yaml"))
MANIFESTS = sorted(path for path in (CLUSTER / "kubernetes").rglob("*.yaml") if path.name != "kustomization.yaml")
KUBERNETES = "1.32"  # the oldest that is checked against; all fields are stable ones

Document = dict[str, Any]


def load(path: Path) -> Document:
    return yaml.safe_load(path.read_text())


def documents(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text()))


# Ray's launcher


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_ray_accepts_the_launcher_file(path: Path) -> None:
    config = prepare_config(load(path))
    validate_config(config)  # raises; the next test shows that it does
    assert config["head_node_type"] in config["available_node_types"]
    assert any(kind["max_workers"] > 0 for kind in config["available_node_types"].values())


def test_rays_validator_refuses_a_misspelt_key() -> None:
    config = load(CLUSTER / "ray" / "aws.yaml")
    config["head_start_commands"] = config.pop("head_start_ray_commands")
    with pytest.raises(jsonschema.ValidationError, match="head_start_commands"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_launchers_start_ray_with_a_token_on_loopback(path: Path) -> None:
    from ray.scripts.scripts import start as ray_start  # imports Ray Serve, so only here

    config = prepare_config(load(path))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    known = {option for parameter in ray_start.params for option in parameter.opts}
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        words = shlex.split(command)
        if "start" in words:
            assert words[:3] == ["RAY_AUTH_MODE=token", "ray", "start"]
            assert {word.split("=")[0] for word in words[3:]} <= known
            assert ("--dashboard-host=127.0.0.1" in words) == ("--head" in words)


def test_launchers_share_what_they_can() -> None:
    """Ray's launcher has no include; equality is pinned instead."""
    first, *others = (load(path) for path in LAUNCHERS)
    for key in ("docker", "file_mounts", "head_start_ray_commands", "worker_start_ray_commands"):
        assert all(other[key] == first[key] for other in others), key


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_clouds_have_the_head_on_demand_and_workers_on_spot(provider: str) -> None:
    config = load(CLUSTER / "ray" / f"{provider}.yaml")
    types = config["available_node_types"]
    head, worker = types[config["head_node_type"]], types["gpu"]
    assert "spot" not in str(head["node_config"]).lower()
    assert "spot" in str(worker["node_config"]).lower()
    assert 1 <= worker["min_workers"] < worker["max_workers"] <= config["max_workers"]


# Kubernetes


def pod_templates(document: Document) -> list[Document]:
    """Pod templates of KubeRay's resources, the autoscaler's container among them."""
    spec = document["spec"]
    found = [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    cluster = spec.get("rayClusterSpec", spec)
    if "headGroupSpec" not in cluster:
        return found
    options = cluster["autoscalerOptions"]
    autoscaler = {"name": "autoscaler"} | {key: options[key] for key in ("resources", "securityContext")}
    found.append(cluster["headGroupSpec"]["template"])
    found += [group["template"] for group in cluster["workerGroupSpecs"]]
    return [*found, {"spec": {"containers": [autoscaler]}}]


def wrong_fields(document: Document) -> str:
    """What the schemas say against a manifest; nothing if it is right."""
    try:
        validate_manifest(document)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error)
    return ""


def validate_manifest(document: Document) -> None:
    """Raises the validators' own errors."""
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    schema = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}[document["kind"]]
    jsonschema.Draft202012Validator(schema).validate(document)
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def ray_cluster() -> Document:
    return load(CLUSTER / "kubernetes" / "ray" / "cluster.yaml")


def ray_job() -> Document:
    """The RayJob as it is applied: what kubernetes/job/kustomization.yaml makes of the two files."""
    job = load(CLUSTER / "kubernetes" / "job" / "job.yaml")
    job["spec"]["rayClusterSpec"] = ray_cluster()["spec"]
    return job


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.name != "job.yaml"], ids=name)
def test_manifests_have_known_fields_only(path: Path) -> None:
    assert [wrong_fields(document) for document in documents(path)] == [""] * len(documents(path))


def test_the_ray_job_has_known_fields_only() -> None:
    assert wrong_fields(ray_job()) == ""


@pytest.mark.parametrize(
    "where",
    [
        "spec",
        "spec.headGroupSpec",
        "spec.authOptions",
        "spec.autoscalerOptions",
        "spec.autoscalerOptions.resources",
        "spec.headGroupSpec.template.spec",
        "spec.headGroupSpec.template.spec.containers.0.securityContext",
        "spec.workerGroupSpecs.0",
        "spec.workerGroupSpecs.0.template.spec.affinity.nodeAffinity",
    ],
)
def test_an_unknown_field_is_refused_at_every_level(where: str) -> None:
    document = copy.deepcopy(ray_cluster())
    level: Any = document
    for key in where.split("."):
        level = level[int(key) if key.isdigit() else key]
    level["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        validate_manifest(document)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the overlays")
@pytest.mark.parametrize("overlay", ["ray", "job", "mlflow"])
def test_overlays_build(overlay: str) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", CLUSTER / "kubernetes" / overlay], check=True, capture_output=True, text=True
    ).stdout
    objects = {document["kind"]: document for document in yaml.safe_load_all(built)}
    for document in objects.values():
        assert document["metadata"].pop("namespace") == "medcore"
        validate_manifest(document)
    # the placeholders are replaced by an image with a tag everywhere
    assert not re.search(r"image: medcore(-mlflow)?$", built, re.MULTILINE)
    if overlay == "job":
        expected = yaml.safe_load(yaml.safe_dump(ray_job()).replace("image: medcore\n", f"image: {image(objects)}\n"))
        assert objects["RayJob"] == expected
        assert "RayCluster" not in objects


def image(objects: dict[str, Document]) -> str:
    return objects["RayJob"]["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"]


def test_kustomizations_name_all_files() -> None:
    for path in CLUSTER.rglob("kustomization.yaml"):
        listed = {(path.parent / entry).resolve() for entry in load(path)["resources"]}
        assert all(entry.exists() for entry in listed)
        assert set(path.parent.glob("*.yaml")) - {path} <= listed


def test_kuberay_runs_the_head_on_demand_and_gpu_workers_on_preemptible_nodes() -> None:
    spec = ray_cluster()["spec"]

    def operators(group: Document) -> set[str]:
        affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return {rule["operator"] for term in terms for rule in term["matchExpressions"]}

    (workers,) = spec["workerGroupSpecs"]
    assert operators(spec["headGroupSpec"]) == {"NotIn"}
    assert operators(workers) == {"In"}
    assert spec["enableInTreeAutoscaling"]
    assert 1 <= workers["minReplicas"] < workers["maxReplicas"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    for group in (spec["headGroupSpec"], workers):
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == "shared"
        assert group["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/shared"
    assert spec["rayVersion"] == PINS["ray"]


def test_the_ray_job_ends_and_cleans_up() -> None:
    spec = ray_job()["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["backoffLimit"] > 0 and "--resume" in spec["entrypoint"]


def test_pods_are_not_root_and_nothing_is_reachable_from_outside() -> None:
    for path in MANIFESTS:
        for document in documents(path):
            assert document["kind"] not in ("Ingress", "Secret")
            if document["kind"] == "Service":
                assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
            pods = pod_templates(document) if document["apiVersion"] == "ray.io/v1" else []
            if document["kind"] in ("Deployment", "StatefulSet"):
                pods = [document["spec"]["template"]]
            for pod in pods:
                spec = pod["spec"]
                assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
                autoscaler = spec["containers"][0]["name"] == "autoscaler"  # in the head's pod
                assert autoscaler or (spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"])
                for container in spec["containers"]:
                    assert container["securityContext"]["allowPrivilegeEscalation"] is False
                    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert ray_cluster()["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


# MLflow's compose file

#: Of the Compose specification, what the file uses: a misspelt key, or one that opens a service, is not among them.
SERVICE_KEYS = {"image", "build", "command", "entrypoint", "environment", "secrets", "ports", "volumes"}
SERVICE_KEYS |= {"depends_on", "healthcheck", "security_opt", "cap_drop", "restart"}


def test_compose_file_has_known_keys_and_whole_references() -> None:
    compose = load(CLUSTER / "mlflow" / "compose.yaml")
    assert compose.keys() == {"name", "services", "volumes", "secrets"}
    for service in compose["services"].values():
        assert service.keys() <= SERVICE_KEYS
        assert set(service["secrets"]) <= compose["secrets"].keys()
        assert set(service.get("depends_on", {})) <= compose["services"].keys()
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= compose["volumes"].keys()
        assert service["security_opt"] == ["no-new-privileges:true"]
    build = compose["services"]["mlflow"]["build"]
    context = (CLUSTER / "mlflow" / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]).is_file()
    assert re.search(rf"^FROM .* AS {build['target']}$", (context / build["dockerfile"]).read_text(), re.MULTILINE)


def test_compose_file_opens_loopback_only_and_takes_secrets_from_the_shell() -> None:
    compose = load(CLUSTER / "mlflow" / "compose.yaml")
    ports = {key: service["ports"] for key, service in compose["services"].items() if "ports" in service}
    assert ports == {"mlflow": ["${MLFLOW_BIND:-127.0.0.1}:5000:5000"]}
    assert all(secret.keys() == {"environment"} for secret in compose["secrets"].values())
    for service in compose["services"].values():
        for key, value in service.get("environment", {}).items():
            assert "PASSWORD" not in key or (key.endswith("_FILE") and value.startswith("/run/secrets/"))


# all files

#: A name that sounds secret with a value that is not a reference (variable, file, command, section).
_ASSIGNED = re.compile(
    r"[\w.-]*(?:password|passwd|token|secret|access_key|session_key|storage_key)['\"]?[ \t]*[:=][ \t]*['\"]?"
    r"(?![$/~<{[&*'\"\s]|token\b|false\b)\S+",
    re.IGNORECASE,
)
_KNOWN_SHAPES = re.compile(r"AKIA[0-9A-Z]{16}|ghp_\w{20}|-----BEGIN|\b[0-9a-f]{32,}\b|://[^\s/:@]+:[^\s/@]+@")


def secret_in(text: str) -> str | None:
    found = _KNOWN_SHAPES.search(text) or _ASSIGNED.search(text)
    return found and found.group()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_secret_is_in_a_file(path: Path) -> None:
    assert secret_in(path.read_text()) is None


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRES_PASSWORD: hunter2",
        "export RAY_AUTH_TOKEN=letmein",
        "AWS_SECRET_ACCESS_KEY='abc'",
        '--from-literal=auth_token="x1"',
        "postgresql://mlflow:pw@postgres/mlflow",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_a_secret_would_be_found(text: str) -> None:
    assert secret_in(text)


def test_whatever_starts_ray_turns_tokens_on() -> None:
    starts = re.compile(r"\bray (?:start|symmetric-run)\b|^kind: RayCluster$|\bray\[default\]", re.MULTILINE)
    found = [path for path in FILES if path.suffix != ".md" and starts.search(path.read_text())]
    assert {path.name for path in found} == {"aws.yaml", "gcp.yaml", "onprem.yaml", "cluster.yaml", "search.sbatch"}
    assert ray_cluster()["spec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    for path in found:
        for line in path.read_text().splitlines():
            if "ray start" in line:
                assert "RAY_AUTH_MODE=token ray start" in line
    assert "\nexport RAY_AUTH_MODE=token\n" in (CLUSTER / "slurm" / "search.sbatch").read_text()
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "Dockerfile").read_text()
    for path in FILES:
        assert "disabled" not in path.read_text()
