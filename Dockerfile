# One image for the head, the workers and the submitter of a run.
#
#   docker build -t registry.example.com/teddy-cloud:0.1 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# It runs as user 1000 with a read-only root file system, given writable folders at /tmp and /home/ray. A change of code
# rebuilds the last layer, in seconds; torch and Ray are installed anew only when pyproject.toml's dependencies or
# constraints.txt change. CUDA comes with torch's own wheels, the GPU's driver from the node.

# What to install, and our wheel. Nothing of this stage but two files reaches the image.
FROM python:3.11-slim AS source
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# Only these lines decide whether the big layer below is made again: a comment in pyproject.toml does not change them.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && pip install --no-cache-dir --root-user-action=ignore -c constraints.txt hatchling
COPY README.md LICENSE ./
COPY teddy_ray teddy_ray
COPY cli cli
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

FROM python:3.11-slim
# torch.compile writes C++ (triton: C) and compiles it where the run is, against Python's headers, which only a base whose
# Python is Debian's own lacks. Debian's fixes are wanted, so no versions are pinned. KubeRay starts Ray with bash, which
# the base has, and asks for its health over HTTP.
# hadolint ignore=DL3008
RUN headers="$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
 && apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && if [ ! -e "$headers/Python.h" ]; then apt-get install -y --no-install-recommends "lib${headers##*/}-dev"; fi \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --no-log-init --uid 1000 --user-group --create-home --shell /bin/bash ray

COPY --from=source /src/requirements.txt /src/constraints.txt /opt/teddy-cloud/
RUN pip install --no-cache-dir --root-user-action=ignore \
      -r /opt/teddy-cloud/requirements.txt -c /opt/teddy-cloud/constraints.txt

# Caches lie below /tmp, which is writable even where the home is not. The driver's libraries for computing are asked for
# here, since a node's runtime otherwise gives an image without CUDA's own base only nvidia-smi.
ENV HOME=/home/ray \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Copied, not mounted: older buildahs take a cached layer however a mounted wheel has changed.
COPY --from=source /dist /opt/teddy-cloud/
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps /opt/teddy-cloud/*.whl

USER 1000:1000
WORKDIR /home/ray
CMD ["teddy-cloud", "--help"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="teddy-cloud" \
      org.opencontainers.image.description="Dataset distillation by Taylor-approximated matching, on a KubeRay cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
