"""The queue itself, beside an album, over thousands of jobs, and what one request waits for."""

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from statistics import median

import numpy as np
import psutil
from redis import Redis

from inpaint import feeder, jobs
from inpaint.blobs import open_blobs
from inpaint.errors import InpaintError
from inpaint.jobs import InpaintJob
from inpaint.settings import Settings

from .bench_client import Load, ask, load, post
from .bench_effort import PATIENT, PLAIN, SHIPPED, Effort, Figures, Say
from .bench_pictures import box, compare, jpeg, photograph, png, strokes, tiff
from .bench_rates import STANDIN_WORKER
from .bench_shapes import stage_seconds
from .temporary import GATEWAY, WORKER, Parts, apart

SMALL = 100  # pixels: as a TIFF 30 kB, and no codec has work with it
CLASSICAL = "telea"  # fast: what remains is the service's own time
SIDE = 512  # pixels
JOB_SIDE = 256  # of the pictures over which memory is watched
ALBUM_SIDE = 512
INTERACTIVE = 2  # clients beside an album
MEGABYTE = 1e6  # bytes


def queue_alone(effort: Effort, say: Say) -> Figures:
    """A fill that does nothing, and uncompressed uploads of 30 kB: what gateway and queue cost."""
    image, mask = tiff(photograph(SMALL, SMALL)), png(box(SMALL, SMALL, SMALL // 4))
    request = post("/inpaint", {"image": image, "mask": mask}, PLAIN)
    with apart("noop", worker=STANDIN_WORKER) as parts:
        compare(image, mask, ask(parts.url, request).body)
        alone = load(parts.url, [request], clients=1, seconds=effort.seconds, warm=20)
        before = _processor_seconds(parts)
        many = load(parts.url, [request], clients=effort.clients, seconds=effort.seconds, warm=5)
        after = _processor_seconds(parts)
    say(f"uploads of {len(request) / 1000:.0f} kB: {alone.wait_ms(50):.2f} ms, {many.rate:.0f}/s")
    return {
        "noop_p50_ms": alone.wait_ms(50),
        "noop_p95_ms": alone.wait_ms(95),
        "noop_requests_per_s": many.rate,
        "noop_p50_ms_32": many.wait_ms(50),
        "noop_p95_ms_32": many.wait_ms(95),
        "noop_upload_kb": len(request) / 1000,
        **{  # warming included, which makes them a little too large
            f"noop_{name}_cpu_ms": 1000 * (after[name] - before[name]) / len(many.waits)
            for name in after
        },
    }


def beside_album(effort: Effort, say: Say) -> Figures:
    """Requests of two clients, alone and while an album of thousands is restored."""
    image, mask = jpeg(photograph(ALBUM_SIDE, ALBUM_SIDE)), png(box(ALBUM_SIDE, ALBUM_SIDE, 100))
    request = post("/inpaint", {"image": image, "mask": mask}, PLAIN)
    with apart(SHIPPED, variables=PATIENT) as parts:
        alone = _interactive(parts, request, effort)
        settings = Settings(data=parts.folder, redis_url=parts.redis_url)
        blobs = open_blobs(settings)
        with closing(jobs.connect(settings)) as redis:
            entries = []
            for _ in range(effort.album):
                image_key, mask_key = blobs.put(image), blobs.put(mask)
                job = InpaintJob(image=image_key, mask=mask_key, model=SHIPPED, refine="none")
                entries.append((job, len(image) + len(mask)))
            began = time.monotonic()
            ids = feeder.add(redis, "bench", entries)
            beside = _interactive(parts, request, effort)
            done = _ended(redis, ids)
            rate = done / (time.monotonic() - began)
    if not done:
        raise InpaintError("The album did not move while requests were answered.")
    say(
        f"p95 of {INTERACTIVE} clients: {alone.wait_ms(95):.0f} ms alone,"
        f" {beside.wait_ms(95):.0f} ms beside an album of {effort.album} that gets {rate:.1f}/s"
    )
    return {
        "interactive_p95_ms_alone": alone.wait_ms(95),
        "interactive_p95_ms_beside_album": beside.wait_ms(95),
        "interactive_p50_ms_alone": alone.wait_ms(50),
        "interactive_p50_ms_beside_album": beside.wait_ms(50),
        "album_images_per_s": rate,
        "album_images": effort.album,
    }


def memory(effort: Effort, say: Say) -> Figures:
    """How much the worker grows over thousands of jobs."""
    image, mask = jpeg(photograph(JOB_SIDE, JOB_SIDE)), png(box(JOB_SIDE, JOB_SIDE, 80))
    request = post("/inpaint", {"image": image, "mask": mask}, PLAIN)
    with apart(SHIPPED, variables=PATIENT) as parts:
        _many(parts, request, effort.settled)
        settled = resident(parts, WORKER)
        _many(parts, request, effort.jobs - effort.settled)
        grown = resident(parts, WORKER)
    say(f"worker: {settled:.0f} MB after {effort.settled} jobs, {grown:.0f} MB after {effort.jobs}")
    return {
        "worker_rss_growth": grown / settled - 1,
        "worker_mb_settled": settled,
        "worker_mb_grown": grown,
        "worker_jobs": effort.jobs,
    }


def overhead(effort: Effort, say: Say) -> Figures:
    """One PNG of 512 px after the other: what a client waits beyond the time in the model."""
    request = post("/inpaint", {"image": png(photograph(SIDE, SIDE)), "mask": png(strokes(SIDE))})
    waits: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    with apart(CLASSICAL) as parts:
        for number in range(3 + 10 * effort.repeats):
            began = time.perf_counter()
            answer = ask(parts.url, request)
            waited = time.perf_counter() - began
            if number >= 3:  # warm
                waits.append(waited)
                for name, seconds in stage_seconds(answer).items():
                    stages[name].append(seconds)
        gateway, worker = resident(parts, GATEWAY), resident(parts, WORKER)
    beyond = 1000 * np.subtract(waits, stages["infer"])
    say(f"{np.median(beyond):.1f} ms beyond the model's {1000 * median(stages['infer']):.1f} ms")
    return {
        "overhead_ms_p50": float(np.percentile(beyond, 50)),
        "overhead_ms_p95": float(np.percentile(beyond, 95)),
        "total_ms_p50": 1000 * float(np.percentile(waits, 50)),
        "total_ms_p95": 1000 * float(np.percentile(waits, 95)),
        **{f"{name}_ms_p50": 1000 * median(values) for name, values in stages.items()},
        "gateway_mb": gateway,
        "worker_mb": worker,
    }


def resident(parts: Parts, name: str) -> float:
    """The resident memory of a part, MB."""
    return float(psutil.Process(parts.processes[name].pid).memory_info().rss / MEGABYTE)


def _processor_seconds(parts: Parts) -> dict[str, float]:
    """What each part, and this client, has used so far."""
    pids = {name: process.pid for name, process in parts.processes.items()} | {"client": None}
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: float(used.user + used.system) for name, used in times.items()}


def _interactive(parts: Parts, request: bytes, effort: Effort) -> Load:
    return load(parts.url, [request], clients=INTERACTIVE, seconds=2 * effort.seconds, warm=3)


def _many(parts: Parts, request: bytes, count: int) -> None:
    """So many requests, from many clients."""
    load(parts.url, [request], clients=8, seconds=0, least=count)


def _ended(redis: Redis, ids: Sequence[str]) -> int:
    """How many of these jobs have finished."""
    with redis.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.hget(f"rq:job:{job_id}", "status")
        return pipeline.execute().count(b"finished")
