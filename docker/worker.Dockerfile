# The worker: the whole project with the shipped checkpoints; `inpaint train` and `eval` run in it too.
# torch's default wheel serves CUDA and CPU; TORCH_INDEX takes its CPU wheel, gigabytes smaller.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN python3 -m venv /opt/venv \
 && useradd --uid 10001 --user-group --no-create-home inpaint \
 && install -d -o inpaint -g inpaint /data /checkpoints
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

WORKDIR /build
ARG TORCH_INDEX=
COPY constraints.txt ./
# torch has a layer of its own: it is large and seldom changes.
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --only-binary :all: -c constraints.txt --no-deps --index-url "$TORCH_INDEX" torch; \
    fi \
 && pip install --no-cache-dir --only-binary :all: -c constraints.txt torch setuptools
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY inpaint inpaint
COPY service service
COPY worker worker
COPY training training
COPY models models
RUN pip install --no-cache-dir --only-binary :all: --no-build-isolation -c constraints.txt .

WORKDIR /data
USER 10001:10001
ENV INPAINT_DATA=/data INPAINT_CHECKPOINTS=/checkpoints NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Healthy while this worker reports ready, which it does with its models loaded.
HEALTHCHECK --start-period=120s --interval=30s --timeout=20s CMD ["python3", "-c", \
  "from socket import gethostname; from inpaint import catalogue, jobs, settings; \
ready = catalogue.workers(jobs.connect(settings.load())); \
raise SystemExit(not any(card.worker.startswith(gethostname() + '-') for card in ready))"]
CMD ["inpaint", "worker"]
