# The gateway: HTTP in, jobs out. It has no torch; docker/service.txt is all that it imports.
ARG BASE=python:3.12-slim
FROM ${BASE}

RUN python3 -m venv /opt/venv \
 && useradd --uid 10001 --user-group --no-create-home inpaint \
 && install -d -o inpaint -g inpaint /data
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

WORKDIR /build
COPY constraints.txt docker/service.txt ./
RUN pip install --no-cache-dir --only-binary :all: -c constraints.txt -r service.txt setuptools
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY inpaint inpaint
COPY service service
COPY worker worker
COPY training training
# Every package is part of the one project; the checkpoints are for workers.
COPY models/*.py models/
RUN pip install --no-cache-dir --no-build-isolation --no-deps .

WORKDIR /data
USER 10001:10001
ENV INPAINT_DATA=/data INPAINT_HOST=0.0.0.0 INPAINT_PORT=8000
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s CMD ["python3", "-c", \
  "from http.client import HTTPConnection as Connection; \
gateway = Connection('127.0.0.1', 8000, timeout=4); gateway.request('GET', '/readyz'); \
raise SystemExit(gateway.getresponse().status != 200)"]
CMD ["inpaint", "serve"]
