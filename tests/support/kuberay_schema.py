"""The part of KubeRay's resource definitions (ray.io/v1, KubeRay 1.7) that the manifests use, closed at every level.

The definitions themselves are two megabytes and no package ships them; the API server drops fields that they do not
have without a word, which here is an error. Pod templates are plain objects in this schema: Kubernetes' own schema
checks them.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_INT32 = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEXT = {"type": "string", "minLength": 1}
_WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
_YES_NO = {"type": "boolean"}
_CHECKED_ELSEWHERE = {"type": "object", "minProperties": 1}


def _closed(required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


_METADATA = _closed("name", name=_TEXT, namespace=_TEXT, labels=_WORDS, annotations=_WORDS)

_HEAD = _closed(
    "template",
    rayStartParams=_WORDS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    enableIngress=_YES_NO,
    labels=_WORDS,
    resources=_WORDS,
    template=_CHECKED_ELSEWHERE,
)

_WORKERS = _closed(
    "groupName minReplicas maxReplicas template",
    groupName=_TEXT,
    replicas=_INT32,
    minReplicas=_INT32,
    maxReplicas=_INT32,
    numOfHosts=_INT32,
    idleTimeoutSeconds=_INT32,
    priority=_INT32,
    rayStartParams=_WORDS,
    labels=_WORDS,
    resources=_WORDS,
    template=_CHECKED_ELSEWHERE,
)

CLUSTER_SPEC = _closed(
    "headGroupSpec",
    rayVersion=_TEXT,
    authOptions=_closed("", mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_YES_NO),
    enableInTreeAutoscaling=_YES_NO,
    autoscalerOptions=_closed(
        "",
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_INT32,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        imagePullPolicy={"enum": ["Always", "Never", "IfNotPresent"]},
        resources=_CHECKED_ELSEWHERE,
        securityContext=_CHECKED_ELSEWHERE,
    ),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    suspend=_YES_NO,
)

RAY_CLUSTER = _closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=_METADATA,
    spec=CLUSTER_SPEC,
)

RAY_JOB = _closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_METADATA,
    spec=_closed(
        # KubeRay's validation wants this or a selector of a running cluster
        "rayClusterSpec",
        entrypoint=_TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        backoffLimit=_INT32,
        activeDeadlineSeconds=_INT32 | {"minimum": 1},
        preRunningDeadlineSeconds=_INT32 | {"minimum": 1},
        shutdownAfterJobFinishes=_YES_NO,
        ttlSecondsAfterFinished=_INT32,
        suspend=_YES_NO,
        runtimeEnvYAML=_TEXT,
        jobId=_TEXT,
        metadata=_WORDS,
        submitterConfig=_closed("", backoffLimit=_INT32),
        submitterPodTemplate=_CHECKED_ELSEWHERE,
        rayClusterSpec=CLUSTER_SPEC,
    ),
)
