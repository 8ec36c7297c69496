"""A large file to S3 and back, by this package and by `aws s3 cp`: `python -m benchmarks.transfer [--rounds N]`.

One S3 server on this machine, one file, each transfer a process of its own, in turn. Ours checks the SHA-256 of every
part and of the whole file, and its file is flushed to disk. `aws` is installed into an environment of its own. Needs
4 GB of disk; with --embedded, 5 GB of memory and ten minutes a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from esd_core import digest
from infra.local_stack import embedded_s3
from infra.processes import Server, free_port, locked, start, stop, wait_until_healthy
from tasks.s3.download import download
from tasks.s3.storage import Bucket, open_bucket
from tasks.s3.upload import upload_once
from tasks.settings import Settings
from tests import aws_cli

MB = 1_000_000
OURS, AWS, AWS_SHA = "esd", "aws s3 cp", "aws s3 cp --checksum-algorithm SHA256"


@dataclass(frozen=True)
class Took:
    """One transfer: seconds from start to end of its process, seconds it computed, and its peak memory in MB."""

    seconds: float
    busy: float
    peak: float


def timed(command: list[str], environment: dict[str, str]) -> Took:
    """Run a command to its end; raises when it fails."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Took(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / MB)


@dataclass(frozen=True)
class Yard:
    """A server with a bucket, a file, and the command that is compared with."""

    bucket: Bucket
    file: Path
    sha256: str
    aws: Path

    def up(self, by: str, key: str) -> Took:
        return self._copy(by, str(self.file), self.bucket.uri(key), ["--step", "up", str(self.file), key])

    def down(self, by: str, key: str, path: Path) -> Took:
        """Fetch an object; raises unless the file that arrives is the one that was sent."""
        ours = ["--step", "down", str(path), key, str(self.file.stat().st_size), self.sha256]
        took = self._copy(by, self.bucket.uri(key), str(path), ours)
        if digest.of_file(path) != self.sha256:
            raise AssertionError(f"{by} fetched another file than was sent")
        path.unlink()
        return took

    def _copy(self, by: str, source: str, target: str, ours: list[str]) -> Took:
        if by == OURS:
            environment = {**os.environ, **aws_cli.MADE_UP, "ESD_S3_ENDPOINT_URL": self.bucket.server}
            return timed([sys.executable, "-m", "benchmarks.transfer", *ours], environment)
        options = by.split()[3:] if source == str(self.file) else []
        command = [str(self.aws), "s3", "cp", source, target, "--endpoint-url", self.bucket.server, "--quiet"]
        return timed([*command, *options], aws_cli.environment())


def write_file(path: Path, size: int) -> None:
    with path.open("wb") as f:
        for start in range(0, size, digest.CHUNK):
            f.write(os.urandom(min(digest.CHUNK, size - start)))


def measure(yard: Yard, rounds: int) -> dict[tuple[str, str], list[Took]]:
    """Every transfer of every round, by direction and who did it; who begins changes with each round."""
    contenders = [OURS, AWS, AWS_SHA]
    taken: dict[tuple[str, str], list[Took]] = {}
    for number in range(rounds):
        for by in contenders[number % 3 :] + contenders[: number % 3]:
            key = f"weights/{number}-{contenders.index(by)}.safetensors"
            taken.setdefault(("up", by), []).append(yard.up(by, key))
            if by != AWS_SHA:  # down, it is the same command as the plain one
                taken.setdefault(("down", by), []).append(yard.down(by, key, yard.file.with_name("fetched")))
            yard.bucket.client.delete_object(Bucket=yard.bucket.name, Key=key)
            for where in ("up", "down"):
                if (where, by) in taken:
                    print(f"round {number + 1}, {by}, {where}: {taken[where, by][-1]}", file=sys.stderr, flush=True)
    return taken


def print_table(taken: dict[tuple[str, str], list[Took]], size: int) -> None:
    print("| | by | median, s | MB/s | speed against `aws s3 cp` | computing, s | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for (where, by), runs in sorted(taken.items(), key=lambda item: item[0], reverse=True):
        seconds = statistics.median(run.seconds for run in runs)
        pairs = zip(taken[where, AWS], runs, strict=True)
        speed = statistics.median(theirs.seconds / this.seconds for theirs, this in pairs)
        busy, peak = statistics.median(run.busy for run in runs), max(run.peak for run in runs)
        print(
            f"| {where} | `{by}` | {seconds:.2f} | {size / MB / seconds:.0f} | {speed:.2f} | {busy:.2f} | {peak:.0f} |"
        )


@contextmanager
def opened(folder: Path, embedded: bool) -> Iterator[str]:
    """Address of a server that keeps its objects in `folder`."""
    settings = Settings(home=folder)
    if embedded:
        with embedded_s3(settings) as address:
            yield str(address)
        return
    port, log = free_port(), folder / "server.log"
    command = (sys.executable, "-m", "benchmarks.quick_s3", str(folder / "objects"), str(port))
    server = Server("S3 (quick)", command, port=port, health="/")
    with locked(folder / "lock", shared=True):
        process = start(server, folder / "lock", log)
        try:
            wait_until_healthy(server, process, log, settings.start_timeout)
            yield server.address
        finally:
            stop(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1000, help="of the file, in MB")
    parser.add_argument("--aws", type=Path, help="an `aws` that is there already; none: installed for this run")
    parser.add_argument("--embedded", action="store_true", help="with the embedded server instead of a quick one")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        one_transfer(*arguments.step)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        aws = arguments.aws or aws_cli.install(folder / "aws")
        write_file(folder / "file", arguments.size * MB)
        with opened(folder, arguments.embedded) as address:
            os.environ.update(aws_cli.MADE_UP)
            bucket = open_bucket(settings=Settings(home=folder, s3_endpoint_url=address))
            bucket.create()
            yard = Yard(bucket, folder / "file", digest.of_file(folder / "file"), aws)
            print_table(measure(yard, arguments.rounds), arguments.size * MB)


def one_transfer(step: str, path: str, key: str, size: str = "", sha256: str = "") -> None:
    """What is timed: our side of a transfer."""
    if step == "up":
        upload_once(open_bucket(), key, Path(path))
    else:
        download(open_bucket(), key, Path(path), size=int(size), sha256=sha256)


if __name__ == "__main__":
    main()
