"""`inpaint bench chaos`: kill everything again and again, and count what became of accepted jobs.

In: how many jobs and faults. Out: a table; exit 1 if a job is lost or has two results.

A server with an append-only file, a gateway and two workers run as processes of their own. Clients
post pictures without waiting for them. Faults come at random moments while jobs run, spread over
the whole of them; what is killed is started again at once. A job counts as accepted once its id has
come back; then, whatever happens, it must end, with one result, and with the pixels that the same
picture always gives.
"""

import asyncio
import hashlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from redis.exceptions import RedisError
from rq.utils import as_text

from inpaint import jobs
from inpaint.errors import InpaintError
from inpaint.settings import Settings

from .bench_client import Answer, Connection, get, post, run
from .bench_effort import PLAIN
from .bench_pictures import box, jpeg, photograph, png
from .temporary import GATEWAY, SERVER, WORKER, Parts, apart

MODEL = "telea"  # its worker starts fast
CLIENTS = 6  # that post
LOOKERS = 4  # that ask how jobs are
BACKLOG = 64  # accepted jobs that have not ended, at most: there is always work to be killed
SIDES = (96, 320, 640)  # of the pictures, pixels: so that faults meet every stage of a job
ANSWER_SECONDS = 10.0  # then the reply counts as lost
PATIENCE_SECONDS = 180.0  # for one fault's turn, and for the last jobs to end
PAUSE_SECONDS = 0.6  # before a fault, at most; and for a job to run that it hits
AWAY_SECONDS = 1.0  # that a killed server is away
HANG_SECONDS = 5.0  # that a server hangs, longer than all time-outs
WORKERS = (WORKER, f"{WORKER}-2")
ENDED = {"succeeded", "failed", "canceled"}


@dataclass
class Job:
    """An accepted job, by what clients see of it."""

    picture: int  # which of the pictures
    record: dict[str, Any] = field(default_factory=dict)  # the last `GET /jobs/{id}`; JSON

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.record.get("status") in ENDED


@dataclass(frozen=True)
class Fault:
    """One that happened."""

    kind: str
    began: float  # seconds since 1970
    running: frozenset[str]  # jobs that ran just before


def chaos(
    *,
    jobs: Annotated[int, typer.Option(min=1, help="How many are to be accepted.")] = 2000,
    worker_kills: Annotated[int, typer.Option(min=0, help="kill -9 of a worker.")] = 24,
    zombies: Annotated[int, typer.Option(min=0, help="Workers suspended past their lease.")] = 3,
    redis_kills: Annotated[int, typer.Option(min=0, help="kill -9 of the server.")] = 4,
    redis_hangs: Annotated[int, typer.Option(min=0, help="The server suspended.")] = 1,
    gateway_kills: Annotated[int, typer.Option(min=0, help="kill -9 of the gateway.")] = 2,
    lease: Annotated[float, typer.Option(min=0.5, help="Of the workers, seconds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the faults' order and moments.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Kill workers, server and gateway at random while jobs run; nothing may be lost or doubled."""
    faults = ["worker-kill"] * worker_kills + ["zombie"] * zombies + ["redis-kill"] * redis_kills
    faults += ["redis-hang"] * redis_hangs + ["gateway-kill"] * gateway_kills
    source = random.Random(seed)
    source.shuffle(faults)
    variables = {"INPAINT_LEASE_SECONDS": str(lease), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with apart(MODEL, workers=len(WORKERS), variables=variables) as parts:
        storm = Storm(parts, jobs, faults, lease, source)
        figures = run(storm.run())
    figures["seconds"] = round(time.monotonic() - began, 1)
    for name, value in figures.items():
        typer.echo(f"{name:24} {value:10}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    if figures["lost"] or figures["results_per_job_max"] > 1 or figures["wrong"]:
        raise InpaintError("Jobs were lost, doubled or wrong; the figures stand above.")


class Storm:
    """Clients, faults and what is known about the jobs.

    Args:
        parts: that may be killed.
        count: of jobs that are to be accepted.
        faults: in their order.
        lease: of the workers, seconds.
        source: of chance.
    """

    def __init__(
        self, parts: Parts, count: int, faults: list[str], lease: float, source: random.Random
    ) -> None:
        self._parts = parts
        self._count = count
        self._faults = faults
        self._lease = lease
        self._random = source
        self._redis = jobs.connect_async(Settings(redis_url=parts.redis_url))
        self._posts = [_post(side) for side in SIDES]
        self.jobs: dict[str, Job] = {}
        self.happened: list[Fault] = []
        self._promised = 0  # jobs that are being posted
        self._allowed = 0  # accepted jobs before the next fault

    async def run(self) -> dict[str, float]:
        """Return the figures once every accepted job has ended, or has had its time."""
        over = asyncio.Event()
        lookers = [asyncio.create_task(self._look(over, number)) for number in range(LOOKERS)]
        shown = asyncio.create_task(self._show())
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        try:
            await self._rage()
            await asyncio.gather(*clients)
            await _until(lambda: all(job.ended for job in self.jobs.values()))
        finally:
            over.set()
            shown.cancel()
            for task in clients:
                task.cancel()
        await asyncio.gather(*lookers)
        figures = await self._judge()
        await self._redis.aclose()
        return figures

    # --- clients ------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        """Post jobs until enough are accepted; never more than the faults so far allow."""
        connection = Connection(self._parts.url)
        while len(self.jobs) < self._count:
            open_jobs = sum(not job.ended for job in self.jobs.values()) + self._promised
            if open_jobs >= BACKLOG or len(self.jobs) + self._promised >= self._allowed:
                await asyncio.sleep(0.02)
                continue
            picture = self._random.randrange(len(SIDES))
            self._promised += 1
            try:
                answer = await _try(connection, self._posts[picture])
            finally:
                self._promised -= 1
            if answer is not None and answer.status == 202:
                self.jobs[answer.headers["x-job-id"]] = Job(picture)
            elif answer is None:  # lost on the way: whether it was taken, nobody knows
                await asyncio.sleep(0.1)
            elif answer.status in (429, 503):
                await asyncio.sleep(min(2.0, float(answer.headers.get("retry-after", "1"))))
            else:
                raise InpaintError(f"POST /inpaint answered {answer.status}: {answer.body!r}")
        connection.close()

    async def _look(self, over: asyncio.Event, number: int) -> None:
        """Ask for the jobs that have not ended, round and round."""
        connection = Connection(self._parts.url)
        while not over.is_set():
            for name, job in [*self.jobs.items()][number::LOOKERS]:
                if job.ended:
                    continue
                answer = await _try(connection, get(f"/jobs/{name}"))
                if answer is not None and answer.status == 200:
                    job.record = json.loads(answer.body)
            await asyncio.sleep(0.1)
        connection.close()

    async def _show(self) -> None:
        """Print a line every few seconds."""
        while True:
            await asyncio.sleep(5)
            kinds = Counter(fault.kind for fault in self.happened)
            ended = sum(job.ended for job in self.jobs.values())
            done = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
            typer.echo(f"accepted {len(self.jobs)}, ended {ended}; {done}")

    # --- faults -------------------------------------------------------------------------------

    async def _rage(self) -> None:
        """Let every fault happen: once its jobs are in, while some run, after a random pause."""
        acts: dict[str, Callable[[str], Awaitable[None]]] = {
            "worker-kill": self._kill_worker,
            "zombie": self._suspend_worker,
            "redis-kill": self._kill_server,
            "redis-hang": self._hang_server,
            "gateway-kill": self._kill_gateway,
        }
        for number, kind in enumerate(self._faults, start=1):
            victim = self._random.choice(WORKERS)
            await _until(partial(self._reports, victim))
            self._allowed = round(self._count * number / (len(self._faults) + 1))
            await _until(partial(self._accepted, self._allowed - BACKLOG // 2))
            await asyncio.sleep(self._random.uniform(0, PAUSE_SECONDS))
            running = await self._running()
            end = time.monotonic() + PAUSE_SECONDS
            while not running and time.monotonic() < end:
                await asyncio.sleep(0.005)
                running = await self._running()
            self.happened.append(Fault(kind, time.time(), running))
            await acts[kind](victim)
        self._allowed = self._count

    def _reports(self, worker: str) -> bool:
        return worker in self._parts.reported()

    def _accepted(self, count: int) -> bool:
        return len(self.jobs) >= count

    async def _running(self) -> frozenset[str]:
        """The jobs that workers hold at the moment; none while the server is away."""
        try:
            found: set[str] = set()
            for lane in jobs.LANES:
                key = f"rq:wip:{jobs.queue_name(lane, MODEL)}"
                members = cast(list[bytes], await self._redis.zrange(key, 0, -1))
                found |= {as_text(member).partition(":")[0] for member in members}
            return frozenset(found)
        except RedisError:
            return frozenset()

    async def _kill_worker(self, victim: str) -> None:
        self._parts.kill(victim)
        self._parts.start(victim)

    async def _suspend_worker(self, victim: str) -> None:
        self._parts.signal(victim, signal.SIGSTOP)
        await asyncio.sleep(1.6 * self._lease)
        self._parts.signal(victim, signal.SIGCONT)

    async def _kill_server(self, victim: str) -> None:
        self._parts.kill(SERVER)
        await asyncio.sleep(AWAY_SECONDS)
        self._parts.start(SERVER)

    async def _hang_server(self, victim: str) -> None:
        self._parts.signal(SERVER, signal.SIGSTOP)
        await asyncio.sleep(HANG_SECONDS)
        self._parts.signal(SERVER, signal.SIGCONT)

    async def _kill_gateway(self, victim: str) -> None:
        self._parts.kill(GATEWAY)
        self._parts.start(GATEWAY)

    # --- judgement ----------------------------------------------------------------------------

    async def _judge(self) -> dict[str, float]:
        """Count: see docs/benchmarks.md for what each figure means."""
        connection = Connection(self._parts.url)
        results, digests, wrong = [], [set[str]() for _ in SIDES], 0
        for name, job in self.jobs.items():
            results.append(await self._redis.xlen(f"rq:results:{name}"))
            if job.record.get("status") != "succeeded":
                continue
            answer = await connection.ask(get(f"/jobs/{name}/result"))
            wrong += answer.status != 200
            if answer.status == 200:
                digests[job.picture].add(hashlib.sha256(answer.body).hexdigest())
        connection.close()
        wrong += sum(len(found) - 1 for found in digests if found)
        kinds = Counter(fault.kind for fault in self.happened)
        states = Counter(job.record.get("status") for job in self.jobs.values())
        again = sum(max(0, job.record.get("attempts", 1) - 1) for job in self.jobs.values())
        return {
            "accepted": len(self.jobs),
            "finished": states["succeeded"],
            "failed": states["failed"],
            "lost": sum(not job.ended for job in self.jobs.values()),
            "wrong": wrong,
            "results_per_job_max": max(results),
            "executions_redone": again,
            "longest_recovery_s": round(max(map(self._recovery, self.happened), default=0.0), 2),
            "worker_kills": kinds["worker-kill"],
            "zombies": kinds["zombie"],
            "redis_kills": kinds["redis-kill"],
            "redis_hangs": kinds["redis-hang"],
            "gateway_kills": kinds["gateway-kill"],
        }

    def _recovery(self, fault: Fault) -> float:
        """Seconds from a fault until the last job that ran at that moment has ended.

        Later faults may hit the same jobs: their recovery counts here too.
        """
        records = (self.jobs[name].record for name in fault.running if name in self.jobs)
        ends = [record["finished_at"] for record in records if record.get("finished_at")]
        return max(
            (datetime.fromisoformat(end).timestamp() - fault.began for end in ends), default=0
        )


async def _try(connection: Connection, request: bytes) -> Answer | None:
    """An answer, or None if none came."""
    try:
        return await connection.ask(request, ANSWER_SECONDS)
    except OSError:  # ConnectionError and TimeoutError are such
        connection.close()
        return None


async def _until(true: Callable[[], bool]) -> None:
    """Wait for something, but not for ever: what is missing then is counted as lost."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not true() and time.monotonic() < end:
        await asyncio.sleep(0.05)


def _post(side: int) -> bytes:
    files = {
        "image": jpeg(photograph(side, side, seed=side)),
        "mask": png(box(side, side, side // 5)),
    }
    return post("/inpaint", files, PLAIN, prefer="respond-async")
