"""The slowest answer to generated requests, and the slowest /health/live beside them.

    .venv/bin/python benchmarks/hostile_requests.py [REQUESTS]

Each of the two HTTP services is a process of its own, on a PostgreSQL and a Valkey of this script's own. The requests are
those of `tests/test_hostile_requests.py`, made before the first is sent, through four connections; the health port is asked
from another process, all the time, each time on a new connection.
"""

import asyncio
import http.client
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from cauce.dev.servers import PostgresServer, ValkeyServer
from goals import verdict
from processes import Child
from testsupport.hostile_requests.generator import SERVICES, requests
from testsupport.hostile_requests.running_services import RunningService, running_service
from testsupport.hostile_requests.siege import AT_ONCE, Outcome, besiege

REQUESTS = 20_000
SEED = 10
SLOWEST_MS, SLOWEST_HEALTH_MS = 2_000, 300
PAUSE_S = 0.01


def probe(port: int) -> None:
    """Ask until a line comes on stdin; then report how often, and the slowest answer in milliseconds."""
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
    asked, slowest = 0, 0.0
    while not told.wait(PAUSE_S):
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        slowest = max(slowest, (time.perf_counter() - began) * 1000)
        asked += 1
    print("asked", asked, slowest, flush=True)


async def besieged(service: RunningService, count: int) -> tuple[Outcome, int, float]:
    lanes = [
        list(islice(requests(service.name, SEED, first=number, step=AT_ONCE), -(-(count - number) // AT_ONCE)))
        for number in range(AT_ONCE)
    ]
    probing = Child(__file__, "--probe", str(service.health_port))
    outcome = await besiege(service.name, service.port, seed=SEED, count=count, given=lanes)
    probing.tell("stop")
    asked, slowest = await probing.report("asked")
    probing.end()
    return outcome, int(asked), float(slowest)


def report(service: RunningService, count: int) -> None:
    outcome, asked, slowest_health = asyncio.run(besieged(service, count))
    assert not outcome.wrong, str(outcome)
    slowest = outcome.slowest_s * 1000
    print(
        f"| {service.name} | the slowest of {count:,} answers | ≤ {SLOWEST_MS:,} ms | {slowest:,.0f} ms "
        f"| {verdict(SLOWEST_MS / slowest)} |"
    )
    print(
        f"| | the slowest of {asked:,} times `/health/live` beside them | ≤ {SLOWEST_HEALTH_MS} ms | {slowest_health:,.0f} ms "
        f"| {verdict(SLOWEST_HEALTH_MS / slowest_health)} |"
    )
    print(f"{service.name}: {outcome.slowest}", file=sys.stderr)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    with tempfile.TemporaryDirectory(prefix="hostile-requests-") as place, ExitStack() as running:
        folder = Path(place)
        folder.chmod(0o711)
        postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
        postgres.start()
        running.callback(postgres.kill)
        valkey.start()
        running.callback(valkey.kill)
        print("| service | what | wanted | seen | reached |\n|---|---|---:|---:|---|")
        services = [
            running.enter_context(
                running_service(
                    name,
                    folder,
                    database_url=postgres.create_database(name.replace("-", "_")),
                    redis_url=valkey.url,
                )
            )
            for name in SERVICES
        ]
        for service in services:
            report(service, count // len(services))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(int(sys.argv[2]))
    else:
        main()
