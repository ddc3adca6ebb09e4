"""Which cluster and namespace, and how to reach its API: the kubeconfig as kubectl reads it, or a pod's own account.

    access = find(context=None, namespace="ml")
    access.namespace, access.configuration.host

Nothing is asked of the cluster here.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teddy_ray.errors import UserError

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_KUBECONFIG = "~/.kube/config"


@dataclass(frozen=True)
class Access:
    """A namespace of a cluster, and the official client's configuration for its API."""

    configuration: Any
    namespace: str
    context: str
    """The kubeconfig's context; empty inside a pod."""

    @property
    def where(self) -> str:
        """For a sentence: ``namespace ml (context prod)``."""
        return f"namespace {self.namespace}" + (f" (context {self.context})" if self.context else "")


class NoClusterError(UserError):
    """There is no kubeconfig, nor are we in a pod."""


def find(context: str | None, namespace: str | None) -> Access:
    """The access of ``context``, else the current one's; its namespace unless another is given. Raises UserError."""
    paths = os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    if any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        return _of_kubeconfig(paths, context, namespace)
    if "KUBERNETES_SERVICE_HOST" in os.environ and context is None:
        return _of_pod(namespace)
    raise NoClusterError(
        f"there is no kubeconfig at {paths}, so no cluster to ask: set KUBECONFIG, or name a store with --store"
    )


def _of_kubeconfig(paths: str, context: str | None, namespace: str | None) -> Access:
    from kubernetes import config
    from kubernetes.client import Configuration
    from yaml import YAMLError

    try:
        contexts, current = config.list_kube_config_contexts(config_file=paths)
    except (config.ConfigException, YAMLError, OSError, TypeError, AttributeError) as error:
        # The client finds out by stumbling, whence the last two.
        raise _unusable(paths, error) from error
    known = {each["name"]: each.get("context") or {} for each in contexts}
    name = context or (current or {}).get("name", "")
    if name not in known:
        raise _unknown_context(paths, name, sorted(known))
    configuration = Configuration()
    try:
        config.load_kube_config(config_file=paths, context=name, client_configuration=configuration)
    except (config.ConfigException, OSError, ValueError, TypeError) as error:
        raise _unusable(paths, error) from error
    return Access(configuration, namespace or known[name].get("namespace") or "default", name)


def _of_pod(namespace: str | None) -> Access:
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        own = POD_NAMESPACE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise NoClusterError(f"this pod has no service account to ask the cluster with ({error})") from error
    return Access(configuration, namespace or own, "")


def _unusable(paths: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"the kubeconfig at {paths} cannot be used: {reason}; does kubectl get pods work?")


def _unknown_context(paths: str, name: str, known: list[str]) -> UserError:
    if not name:
        return UserError(f"the kubeconfig at {paths} has no current context: give --context, one of {', '.join(known)}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known) or 'none'}"
    return UserError(f"the kubeconfig at {paths} has no context '{name}': {hint}")
