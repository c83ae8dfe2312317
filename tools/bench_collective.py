#!/usr/bin/env python3
"""All-reduce of Lockstep beside gloo (torch.distributed) and Open MPI, alternately, medians.

    apt-get install openmpi-bin libopenmpi-dev gcc
    python tools/bench_collective.py [--transport shm tcp] [--ranks 2 4 8] [--sizes 1KiB 64KiB 1MiB 8MiB 64MiB] [--rounds 5]

Everybody sums float32 on this host, in place, between barriers, as often as moves 64 MiB (5 to 200 times), and gives each
rank's median; the figure of a round is the median over the ranks, the figure of the table the median over the rounds. Open MPI
runs with --oversubscribe and mpi_yield_when_idle, bound to cores like Lockstep; over shared memory with its default transport. gloo has TCP only, and stands
beside both. A peer that fails is tried again, and left out if it fails three times. A ratio is the better of the two over
Lockstep; a target is the one that was set for it.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGETS = {
    "shm": {"1KiB": 2, "64KiB": 8, "1MiB": 5, "8MiB": 8, "64MiB": 6},
    "tcp": {"1MiB": 1.6, "8MiB": 1.6, "64MiB": 1.6},
}

MPI = r"""
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }

int main(int argc, char **argv) {
  int rank, ranks;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  double *medians = malloc(ranks * sizeof(double));
  for (int i = 1; i < argc; i++) {
    long bytes = atol(argv[i]), n = 67108864 / bytes;
    n = n > 200 ? 200 : n < 5 ? 5 : n;
    float *x = malloc(bytes);
    double *times = malloc(n * sizeof(double));
    for (long k = -3; k < n; k++) {
      for (long j = 0; j < bytes / 4; j++) x[j] = 1;
      MPI_Barrier(MPI_COMM_WORLD);
      double start = MPI_Wtime();
      MPI_Allreduce(MPI_IN_PLACE, x, bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (k >= 0) times[k] = MPI_Wtime() - start;
    }
    qsort(times, n, sizeof(double), compare);
    double median = times[n / 2] * 1e6;
    MPI_Gather(&median, 1, MPI_DOUBLE, medians, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    if (!rank) {
      printf("{\"bytes\": %ld, \"us\": [", bytes);
      for (int r = 0; r < ranks; r++) printf("%s%.3f", r ? ", " : "", medians[r]);
      printf("]}\n");
      fflush(stdout);
    }
    free(x);
    free(times);
  }
  MPI_Finalize();
}
"""

GLOO = r"""
import json, statistics, sys, time
import torch, torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
for size in map(int, sys.argv[1:]):
    x, times = torch.ones(size // 4), []
    for k in range(-3, max(5, min(200, 67108864 // size))):
        x.fill_(1)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(x)
        if k >= 0:
            times.append(time.perf_counter() - start)
    medians = [None] * dist.get_world_size()
    dist.all_gather_object(medians, statistics.median(times) * 1e6)
    if dist.get_rank() == 0:
        print(json.dumps({"bytes": size, "us": medians}), flush=True)
"""


def parse_size(text):
    for shift, unit in ((10, "KiB"), (20, "MiB")):
        if text.endswith(unit):
            return int(text[: -len(unit)]) << shift
    return int(text)


class Peers:
    """The programs that are compared, built in a temporary directory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        environment = dict(os.environ, CGO_ENABLED="0")
        for program in ("launch", "spmd"):
            subprocess.run(["go", "build", "-o", self.directory / program, f"./{program}"], cwd=ROOT, env=environment, check=True)
        (self.directory / "gloo.py").write_text(GLOO)
        self.mpi = shutil.which("mpicc") is not None and shutil.which("mpirun") is not None
        if self.mpi:
            (self.directory / "mpi.c").write_text(MPI)
            subprocess.run(["mpicc", "-O2", "mpi.c", "-o", "mpi"], cwd=self.directory, check=True)

    def lockstep(self, transport, ranks, sizes):
        return [self.directory / "launch", "--bind-to", "core", "-n", str(ranks), self.directory / "spmd", "bench", "collective", "--json",
                "--operations", "all-reduce", "--backend", transport, "--sizes", ",".join(map(str, sizes))]

    def open_mpi(self, transport, ranks, sizes):
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "core:overload-allowed", "-n", str(ranks), "--mca", "mpi_yield_when_idle", "1"]
        if transport == "tcp":
            command += ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]
        return command + [self.directory / "mpi"] + [str(s) for s in sizes]

    def gloo(self, _, ranks, sizes):
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), self.directory / "gloo.py"] + [str(s) for s in sizes]


def measure(command, attempts):
    """Runs a program once, again where it fails, and returns the median over its ranks, in microseconds, by size."""
    for attempt in range(attempts):
        run = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
        if run.returncode == 0:
            break
        print(f"{command[0]} {command[1]}: exit status {run.returncode}: {run.stderr[-500:]}", file=sys.stderr)
    else:
        return {}
    result = {}
    for line in run.stdout.splitlines():
        if "{" in line:
            row = json.loads(line[line.index("{"):])
            result[row["bytes"]] = row["median_us"] if "median_us" in row else statistics.median(row["us"])
    return result


def table(transport, ranks, sizes, rounds):
    """Prints the rows of one number of ranks."""
    for text, size in sizes.items():
        times = {name: [r[size] for r in rows if size in r] for name, rows in rounds.items()}
        us = {name: statistics.median(t) for name, t in times.items() if t}
        if "Lockstep" not in us:
            sys.exit("Lockstep failed")
        target = 1 if (transport, ranks, text) == ("tcp", 2, "1MiB") else TARGETS[transport].get(text, "")
        peers = [t for name, t in us.items() if name != "Lockstep"]
        ratio = f"{min(peers) / us['Lockstep']:.2f}" if peers else ""
        spread = f"{min(times['Lockstep']):.1f}-{max(times['Lockstep']):.1f}"
        others = " | ".join(f"{us[name]:.1f}" if name in us else "failed" if name in rounds else "not there" for name in ("gloo", "Open MPI"))
        print(f"| {ranks} | {text} | {us['Lockstep']:.1f} | {spread} | {others} | {ratio} | {target} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", nargs="+", default=["shm", "tcp"], choices=["shm", "tcp"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--sizes", nargs="+", default=["1KiB", "64KiB", "1MiB", "8MiB", "64MiB"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    sizes = {text: parse_size(text) for text in arguments.sizes}
    with tempfile.TemporaryDirectory() as directory:
        peers = Peers(directory)
        who = {"Lockstep": peers.lockstep, "gloo": peers.gloo, "Open MPI": peers.open_mpi}
        if not peers.mpi:
            del who["Open MPI"]
        for transport in arguments.transport:
            print(f"\n{transport}, microseconds\n\n| ranks | size | Lockstep | its rounds | gloo | Open MPI | ratio | target |\n|---|---|---|---|---|---|---|---|", flush=True)
            for ranks in arguments.ranks:
                rounds = {name: [] for name in who}
                for i in range(arguments.rounds):
                    for name in sorted(who, reverse=i % 2 == 1):
                        rounds[name].append(measure(who[name](transport, ranks, list(sizes.values())), 1 if name == "Lockstep" else 3))
                table(transport, ranks, sizes, rounds)


if __name__ == "__main__":
    main()
