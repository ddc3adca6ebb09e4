"""What the commands about runs have in common: where they look, and how times are typed.

    place = find(store, endpoint_url, context, namespace)
    place.store, place.cluster

One rule says where, for all of them: the --store that is typed; else, with --context or --namespace, the cluster; else
what the user's config file says; else ./teddy-store, if it is there; else the cluster of the current context. A cluster
brings the store of its namespace along.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud import hints
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.cluster.settings import Settings
    from teddy_ray.store import Store

DEFAULT_STORE = "teddy-store"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or a beginning that no other has.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="FOLDER|s3://BUCKET/PREFIX",
        help="Where the runs are kept; else that of the config file, ./teddy-store, or the cluster's.",
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="The S3 server, if not Amazon's; else AWS_ENDPOINT_URL_S3."),
]
ContextOption = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="The kubeconfig's context; else the current one.")
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="The namespace; else the context's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Place:
    """Where runs are looked for: a store, and perhaps a cluster whose runs these are."""

    cluster: Cluster | None
    given_store: str | None
    endpoint_url: str | None

    @cached_property
    def settings(self) -> Settings:
        """What the cluster's administrator has set; only where there is a cluster."""
        assert self.cluster is not None
        return self.cluster.settings()

    @property
    def store_name(self) -> str:
        """The store's address, as it was typed where it was."""
        return self.given_store or (self.settings.store.uri if self.cluster else DEFAULT_STORE)

    @property
    def where(self) -> str:
        """For a sentence."""
        return self.cluster.where if self.cluster else self.store_name

    @cached_property
    def store(self) -> Store:
        """The runs' store, on the server that this machine reaches it at."""
        endpoint = self.endpoint_url
        if self.given_store is None and self.cluster is not None:
            said = self.settings.store
            endpoint = endpoint or said.public_endpoint or said.endpoint or None
            if said.region:
                os.environ.setdefault("AWS_DEFAULT_REGION", said.region)
        return opened(self.store_name, endpoint)

    def readable(self) -> tuple[Store | None, str]:
        """The store if its runs can be listed from here, else why not: a cluster's runs can be watched without."""
        try:
            store = self.store
            next(iter(store.list("runs/")), None)
        except (UserError, WorldError) as error:
            if self.cluster is None:
                raise
            return None, str(error)
        return store, ""

    def find(self, given: str) -> str:
        """The one run, of the store or of the cluster, whose name is ``given`` or begins with it. Raises UserError."""
        from teddy_ray.pipeline import runs

        if self.cluster is None:
            return runs.find(self.store, given)
        known = {rayjob["metadata"]["name"] for rayjob in self.cluster.list()}
        if given in known:
            return given
        store, _ = self.readable()
        known |= set(runs.listing(store)) if store else set()
        return runs.choose(given, known, where=f"{self.cluster.where} and its store" if store else self.cluster.where)


def find(store: str | None, endpoint_url: str | None, context: str | None, namespace: str | None) -> Place:
    """Where to look, by the rule above. Raises UserError where the cluster that is meant cannot be named."""
    from teddy_cloud.config import load

    hints.told(store=store, endpoint_url=endpoint_url, context=context, namespace=namespace)
    if store is not None and context is None and namespace is None:
        return Place(None, store, endpoint_url)
    config = load()
    context, endpoint_url = context or config.context, endpoint_url or config.endpoint_url
    typed = namespace is not None or context is not None
    namespace = namespace or config.namespace
    store = store or config.store
    if not typed and namespace is None and (store is not None or Path(DEFAULT_STORE).is_dir()):
        return Place(None, store, endpoint_url)
    cluster = _cluster(context, namespace, needed=typed or namespace is not None)
    return Place(cluster, store, endpoint_url)


def find_cluster(context: str | None, namespace: str | None) -> Cluster:
    """The cluster, for commands that are about nothing else. Raises UserError where there is none."""
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.config import load

    hints.told(context=context, namespace=namespace)
    config = load()
    return Cluster.connect(context or config.context, namespace or config.namespace)


def _cluster(context: str | None, namespace: str | None, *, needed: bool) -> Cluster | None:
    """The cluster; or None where nobody named one and there is no kubeconfig: somebody with a laptop alone."""
    from teddy_cloud.cluster.access import NoClusterError
    from teddy_cloud.cluster.api import Cluster

    try:
        return Cluster.connect(context, namespace)
    except NoClusterError:
        if needed:
            raise
        return None


def opened(store: str, endpoint_url: str | None) -> Store:
    """The store at an address, on the server that was named."""
    if endpoint_url is not None:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint_url  # boto3's own variable, which child processes inherit too
    from teddy_ray.store import open_store

    return open_store(store)


def seconds(text: str, *, option: str) -> float:
    """``45m``, ``12h``, ``7d`` or ``2w`` in seconds. Raises UserError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found:
        raise UserError(f"{option} {text}: give a number and a unit (s, m, h, d, w), such as 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def moment(text: str, *, option: str) -> float:
    """``7d`` ago, or a date such as ``2026-11-21`` or ``2026-11-21T14:00``, in Unix time. Raises UserError."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - seconds(text, option=option)
    except UserError:
        raise UserError(f"{option} {text}: give an age such as 12h or 7d, or a date such as 2026-11-21") from None
