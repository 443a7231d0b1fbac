"""Objects with awkward fields: those that protobuf, Go and JSON each write in another way."""

from typing import Any

Object = dict[str, Any]
GROUP = "awkward.etcdsteward.io"


def awkward(namespace: str) -> list[Object]:
    """For `kubectl create`: Quantity, IntOrString, times, bytes, empty lists, two CRD versions."""
    here = {"namespace": namespace}
    place = {"name": "awkward", **here}
    container = {
        "name": "app",
        "image": "registry.example.com/app:1.0",
        "command": [],
        "env": [{"name": "EMPTY", "value": ""}],
        "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "1e0"}},
        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 7},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
        "securityContext": {"runAsUser": 0, "privileged": False},
    }
    pod = {"containers": [container], "volumes": [{"name": "none", "emptyDir": {}}]}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": pod}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "PodTemplate", "template": template},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {
                "replicas": 0,
                "paused": True,
                "selector": {"matchLabels": {"app": "a"}},
                "template": template,
                "strategy": {"rollingUpdate": {"maxSurge": "30%", "maxUnavailable": 1}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "etcdsteward.io/test",
            "immutable": False,
            "data": {"empty": "", "bytes": "AP/+"},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "binaryData": {"b": "/w=="}, "data": {"e": ""}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": []},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "spec": {"hard": {"requests.storage": "1500Mi", "pods": "1k", "limits.cpu": "0.1"}},
        },
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "spec": {"renewTime": "2026-11-22T02:17:00.000007Z", "leaseTransitions": 0},
        },
        {
            "apiVersion": "v1",
            "kind": "Event",
            "involvedObject": here,
            "firstTimestamp": "2026-11-22T02:17:00Z",
            "eventTime": None,
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "spec": {
                "maxReplicas": 3,
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": "awkward",
                },
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "AverageValue", "averageValue": "0.25"},
                        },
                    }
                ],
            },
        },
    ]
    return [*({"metadata": place, **item} for item in objects), _definition()]


def _definition() -> Object:
    """One that webhooks convert, and whose versions differ: v1beta1 says that in another way."""
    schema = {
        "type": "object",
        "properties": {
            "size": {"x-kubernetes-int-or-string": True, "default": 1},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "words": {"type": "array", "items": {"type": "string"}, "default": []},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    columns = [{"name": "Size", "type": "string", "jsonPath": ".size"}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"oddities.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {"kind": "Oddity", "plural": "oddities", "shortNames": ["odd"]},
            "conversion": {
                "strategy": "Webhook",
                "webhook": {
                    "clientConfig": {"service": {"namespace": "default", "name": "nobody"}},
                    "conversionReviewVersions": ["v1"],
                },
            },
            "versions": [
                {
                    "name": "v2",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                },
                {
                    "name": "v1",
                    "served": False,
                    "storage": False,
                    "deprecated": True,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                },
            ],
        },
    }
