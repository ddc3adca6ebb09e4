"""``teddy-cloud dashboard``: Ray's dashboard of a run, on this machine alone, until Ctrl-C.

teddy-cloud dashboard digits-ipc10 --port 8265
"""

from __future__ import annotations

from typing import Annotated

import typer

from teddy_cloud.hints import command
from teddy_cloud.stores import ContextOption, NamespaceOption, RunArgument
from teddy_ray.errors import UserError


def dashboard(
    run: RunArgument,
    *,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="This machine's port; 0 takes any that is free.")] = 8265,
) -> None:
    """Open a way to a run's Ray dashboard, on 127.0.0.1, until Ctrl-C. It asks for the namespace's token."""
    from teddy_cloud.cluster.forward import Forwarder
    from teddy_cloud.cluster.settings import TOKEN_SECRET
    from teddy_cloud.control import DASHBOARD_PORT, head_pod, of_cluster

    place = of_cluster(context, namespace)
    name = place.find(run)
    cluster = place.cluster
    assert cluster is not None
    pod = head_pod(cluster.get(name) or {})
    if pod is None:
        raise UserError(f"{name} has no Ray cluster now, so no dashboard: see {command('status', name)}")
    with Forwarder(cluster, pod, DASHBOARD_PORT, local_port=port) as forwarder:
        typer.echo(f"http://127.0.0.1:{forwarder.local_port}")
        secret = f"kubectl get secret {TOKEN_SECRET} -n {cluster.namespace} -o jsonpath='{{.data.auth_token}}'"
        typer.echo(f"The token that it asks for: {secret} | base64 -d\nCtrl-C closes it.", err=True)
        try:
            forwarder.wait()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
