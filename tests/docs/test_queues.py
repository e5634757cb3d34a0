"""The examples with queues, each with its own worker and a real Valkey as the broker."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from headwater.client import follow_run
from support.markdown import ROOT
from support.processes import Program
from support.until import outside
from support.valkey import Valkey

EXAMPLES = ROOT / "docs" / "examples" / "queues"

# Each has an environment of its own: they ask for different versions of the redis package.
PACKAGES = {
    "celery": ["celery[redis]>=5.7,<6"],
    "arq": ["arq>=0.28,<1"],
    "taskiq": ["taskiq>=0.13,<1", "taskiq-redis>=1.2,<2"],
}
WORKERS = {
    "celery": ["celery", "-A", "by_celery:queue", "worker", "--pool=solo", "--loglevel=WARNING"],
    "arq": ["arq", "by_arq.WorkerSettings"],
    "taskiq": ["taskiq", "worker", "by_taskiq:queue", "--workers=1", "--no-configure-logging"],
}


@pytest.fixture
def environment(queue: str, pytestconfig: pytest.Config) -> Path:
    """The folder with the programs of an environment that has the queue; kept between runs."""
    folder = pytestconfig.cache.mkdir(f"queue-{queue}")
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed (pip install uv)")
    wanted = [f"{ROOT}[fastapi,redis]", "uvicorn", *PACKAGES[queue]]
    mark = folder / "installed"
    if not mark.is_file() or mark.read_text() != str(wanted):
        python = str(folder / "bin" / "python")
        for words in (
            ["venv", "--clear", str(folder)],
            ["pip", "install", "--python", python, "--editable", *wanted],
        ):
            done = subprocess.run(
                [uv, *words], capture_output=True, text=True, timeout=110, check=False
            )
            if done.returncode:
                pytest.skip(f"uv could not install {queue}: {done.stderr[-300:]}")
        mark.write_text(str(wanted))
    return folder / "bin"


class Example(Program):
    """A program of the environment, beside the examples."""

    def __init__(self, folder: Path, environment: Path, broker: str, words: Sequence[str]) -> None:
        super().__init__(folder)
        self._words = words
        self._environment = environment
        self._broker = broker

    def command(self) -> Sequence[str]:
        program, *words = self._words
        words = [word.format(port=self.port) for word in words]
        path = f"PYTHONPATH={EXAMPLES}"
        # Not beside the examples, and kept: a worker compiles thousands of files otherwise.
        compiled = f"PYTHONPYCACHEPREFIX={self._environment.parent / 'bytecode'}"
        settings = ["-u", "PYTHONDONTWRITEBYTECODE", path, f"BROKER={self._broker}", compiled]
        return ["env", *settings, str(self._environment / program), *words]


@asynccontextmanager
async def running(queue: str, environment: Path, folder: Path) -> AsyncIterator[str]:
    """The application and its worker; gives the address."""
    valkey = Valkey(folder / "valkey", "--appendonly", "no")
    module = f"by_{queue}"
    words = ["uvicorn", f"{module}:app", "--port", "{port}", "--log-level", "warning"]
    application = Example(folder / "application", environment, valkey.url, words)
    worker = Example(folder / "worker", environment, valkey.url, WORKERS[queue])
    try:
        await valkey.start()
        worker.begin()
        application.begin()
        await outside(application.answers, 60)
        yield f"http://127.0.0.1:{application.port}/exports"
    except BaseException:
        print(application.log, worker.log)
        raise
    finally:
        worker.stop()
        application.stop()
        valkey.stop()


async def followed(url: str) -> tuple[list[int], str | None]:
    """The rows that a run shows, and its last state."""
    rows = []
    async with follow_run(url) as run:
        async for event in run:
            if event.name == "progress":
                rows.append(event.data["row"])
    return rows, run.state


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("queue", list(WORKERS))
async def test_a_worker_of_a_queue_produces_a_run(
    queue: str, environment: Path, tmp_path: Path
) -> None:
    async with running(queue, environment, tmp_path) as address, httpx.AsyncClient() as http:

        async def start(rows: int) -> str:
            answer = await http.post(address, json={"rows": rows})
            assert answer.status_code == 202, answer.text
            return str(httpx.URL(address).join(answer.headers["location"]))

        async with asyncio.timeout(100):
            first = await start(5)
            assert await followed(first) == ([0, 1, 2, 3, 4], "done")
            assert (await http.get(first)).json()["result"] == {"rows": 5}

            endless = await start(1_000_000_000)
            async with follow_run(endless) as run:
                async for event in run:
                    if event.name == "progress" and event.data["row"] == 1:
                        assert (await http.post(f"{endless}/cancel")).status_code == 202
            assert run.state == "cancelled"

            # The worker was not lost with it.
            assert await followed(await start(1)) == ([0], "done")


def test_each_example_names_its_commands() -> None:
    for queue, (program, *_) in WORKERS.items():
        text = (EXAMPLES / f"by_{queue}.py").read_text()
        assert f"\n{program} " in text
        assert f"uvicorn by_{queue}:app" in text
