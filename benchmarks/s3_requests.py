"""How many requests a run makes of S3: they cost money and time, and should be as many as there are artifacts.

    AWS_ENDPOINT_URL_S3=http://127.0.0.1:7071 python benchmarks/s3_requests.py --store s3://bucket/requests

Carries out a tiny run in this process, then the same again, which finds everything; counts what boto3 sends. Allowed
are 3 requests a record and 1 a second for events; exits with 1 if the first run takes more. Always in a new folder.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from teddy_ray import spec
from teddy_ray.pipeline import driver
from teddy_ray.store import Store, open_store, s3_client

A_RECORD, A_SECOND = 3, 1
TINY: dict[str, Any] = {
    "compute.executor": "inline",
    "data.classes": 3,
    "data.per_class": 40,
    "base.epochs": 3,
    "pool.size": 3,
    "distill.ipc": 4,
    "distill.iterations": 30,
    "distill.unit_images": 3,
    "relabel.views": 3,
    "evaluate.students": ["convnet"],
    "evaluate.seeds": 2,
    "evaluate.epochs": 3,
    "evaluate.regimes": ["views", "fixed"],
}


def main() -> None:
    """Count, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="s3://bucket/prefix")
    root = f"{parser.parse_args().store.rstrip('/')}/{secrets.token_hex(4)}"
    store, sent = open_store(root), Counter[str]()
    count(sent, root)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TEDDY_CACHE"] = cache
        seconds = run(store)
        first, made = sent.total(), sum(sent[what] for what in sent if "PutObject" in what and "record.json" in what)
        allowed = int(seconds * A_SECOND) + A_RECORD * made
        show("first run", sent)
        print(f"{first} requests for {made} records in {seconds:.0f} s; allowed are {allowed}")
        sent.clear()
        seconds = run(store)
    show("again", sent)
    print(f"{sent.total()} requests in {seconds:.0f} s, to find that all is there")
    sys.exit(first > allowed)


def count(sent: Counter[str], root: str) -> None:
    """Have every request counted by what it does to what."""
    prefix = root.partition("://")[2]

    def add(request: Any, event_name: str, **_: Any) -> None:
        rest = request.url.partition(prefix)[2].partition("?")[0].strip("/").split("/")
        what = f"artifacts/{rest[1]}" if rest[0] == "artifacts" and len(rest) > 1 else "/".join([rest[0], *rest[2:3]])
        last = rest[-1] if rest[-1] in {"record.json", "resume"} else ""
        sent[f"{event_name.rpartition('.')[2]:<16} {what:<24} {last}"] += 1

    s3_client.connection().client.meta.events.register("before-send.s3", add)


def run(store: Store) -> float:
    """The tiny run; how long it took."""
    started = time.monotonic()
    driver.run(spec.resolve(recipe="teddy-post", file={}, overrides=TINY), store, emit=lambda _: None)
    return time.monotonic() - started


def show(title: str, sent: Counter[str]) -> None:
    print(f"\n{title}")
    for what, number in sorted(sent.items()):
        print(f"{number:>6}  {what}")


if __name__ == "__main__":
    main()
