"""How many requests a run makes of S3: they cost money and time, and should be as many as there are artifacts.

    AWS_ENDPOINT_URL_S3=http://127.0.0.1:7071 python benchmarks/s3_requests.py --store s3://bucket/requests
    … --executor ray                            # two workers, each of which is a process with eyes of its own
    … --out benchmarks/results/NAME.json        # keep what was measured

Carries out a small run, then the same again, which finds everything. A proxy before the server counts what all
processes send. Allowed are 3 requests a record and 1 a second for events; exits with 1 if the first run takes more.
Always in a new folder, with a cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).parents[1] / "tests" / "integration"))
from faults import Proxy, Request

from teddy_ray import __version__, spec
from teddy_ray.pipeline import driver
from teddy_ray.store import open_store

A_RECORD, A_SECOND = 3, 1
SMALL: dict[str, Any] = {
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
    parser.add_argument("--executor", choices=["inline", "ray"], default="inline")
    parser.add_argument("--ipc", type=int, default=4, help="images a class: a unit has one of each")
    parser.add_argument("--out", type=Path, help="a JSON file for what was measured")
    arguments = parser.parse_args()
    root = f"{arguments.store.rstrip('/')}/{secrets.token_hex(4)}"
    settings = SMALL | {
        "compute.executor": arguments.executor, "compute.workers": 2, "distill.ipc": arguments.ipc,
    }  # fmt: skip
    with Proxy(os.environ["AWS_ENDPOINT_URL_S3"]) as proxy, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TEDDY_CACHE": cache, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        first, seconds = counted(proxy, root, settings)
        again, seconds_again = counted(proxy, root, settings)
    made = sum(number for what, number in first.items() if what.startswith("PUT") and what.endswith("record.json"))
    allowed = int(seconds * A_SECOND) + A_RECORD * made
    show("first run", first)
    print(f"{first.total()} requests for {made} records in {seconds:.0f} s; allowed are {allowed}")
    show("again", again)
    print(f"{again.total()} requests in {seconds_again:.0f} s, to find that all is there")
    if arguments.out:
        found = {
            "teddy_cloud": __version__, "executor": arguments.executor, "settings": settings, "records": made,
            "allowed": allowed, "first": {"seconds": round(seconds, 1), "requests": first.total(), "by": first},
            "again": {"seconds": round(seconds_again, 1), "requests": again.total(), "by": again},
        }  # fmt: skip
        arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    sys.exit(first.total() > allowed)


def counted(proxy: Proxy, root: str, settings: dict[str, Any]) -> tuple[Counter[str], float]:
    """The run's requests by what they do to what, and how long it took."""
    sent = Counter[str]()

    def add(request: Request) -> None:
        sent[what(request, root)] += 1

    proxy.answers = add
    started = time.monotonic()
    driver.run(spec.resolve(recipe="teddy-post", file={}, overrides=settings), open_store(root), emit=lambda _: None)
    return sent, time.monotonic() - started


def what(request: Request, root: str) -> str:
    """``PUT artifacts/unit record.json``, of a request's line."""
    path = urlsplit(request.path).path.partition(root.removeprefix("s3://"))[2].strip("/").split("/")
    if not path[0]:
        return "LIST"
    inner = f"artifacts/{path[1]}" if path[0] == "artifacts" else "/".join([path[0], *path[2:3]])
    last = path[-1] if path[-1] in {"record.json", "resume"} else ""
    method = "COPY" if request.has("x-amz-copy-source") else request.method
    return f"{method} {inner} {last}".strip()


def show(title: str, sent: Counter[str]) -> None:
    print(f"\n{title}")
    for name, number in sorted(sent.items()):
        print(f"{number:>6}  {name}")


if __name__ == "__main__":
    main()
