#!/usr/bin/env python3
"""Run the matrix products of linear layers in Lockstep and in PyTorch, alternately, and print a table of both.

    bench_gemm.py [--rounds N] [--seconds S] [--threads 1 2] [--shapes REGEXP] [--binary FILE]

From the root of the repository. The script builds the benchmarks of kernels/cpu, asks them for their shapes, and then, in
every round and for each shape, runs Lockstep's products and PyTorch's right after them: forward y = x w^T, input gradient
dx = dy w, weight gradient dw += dy^T x, and for squares also y = x^T w^T, all float32. A sample is as many calls as take two
milliseconds. Figures are medians over samples, then over rounds, in GFLOP/s; "peak" is Lockstep's share of as many
multiply-adds on registers, on as many threads, in turns with its samples. Other work on the machine disturbs all of them
alike; more rounds take out more of it.

Needs Go and torch; no test of Lockstep needs this script.
"""

import argparse
import collections
import collections.abc
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch

BENCHMARK = re.compile(
    r"^BenchmarkMatMul/(\w+)/([\w-]+)/(\d+)x(\d+)x(\d+)/threads=(\d+)/(\w+?)(?:-\d+)?\s+\d+\s+[\d.]+ ns/op(.*)$"
)
METRIC = re.compile(r"([\d.]+) (GFLOP/s|%peak)")
SAMPLE = 2e-3  # seconds, as in kernels/cpu

Shape = collections.namedtuple("Shape", "kernels model tokens outputs inputs threads")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="time for one product in one round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--kernels", help="the kernel set, such as avx2; the best one that the machine has if not given")
    parser.add_argument("--shapes", default="", help="only those whose name, such as llama-15m/1024x288x768, matches")
    parser.add_argument("--binary", help="benchmarks that are built already: go test -c -o FILE ./kernels/cpu")
    return parser.parse_args()


def build(directory: str) -> str:
    """Build the benchmarks and return the binary's path."""
    binary = f"{directory}/cpu.test"
    subprocess.run(["go", "test", "-c", "-o", binary, "./kernels/cpu"], check=True)
    return binary


def run_lockstep(binary: str, pattern: str, benchtime: str) -> dict[tuple[Shape, str], dict[str, float]]:
    """Run the benchmarks that match and return their metrics by shape and product."""
    command = [binary, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", benchtime]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results = {}
    for line in output.splitlines():
        if match := BENCHMARK.match(line):
            kernels, model, tokens, outputs, inputs, threads, product, metrics = match.groups()
            shape = Shape(kernels, model, int(tokens), int(outputs), int(inputs), int(threads))
            results[shape, product] = {unit: float(value) for value, unit in METRIC.findall(metrics)}
    return results


def best_kernels(binary: str) -> str:
    """Return the kernel set that Lockstep uses on this machine: the benchmarks run it first."""
    shape = next(iter(run_lockstep(binary, "^BenchmarkMatMul$/./square/512x512x512/threads=1/forward", "1x")))[0]
    return shape.kernels


def torch_products(shape: Shape) -> dict[str, collections.abc.Callable]:
    """Return PyTorch's products on random operands, none of which allocates."""
    x, w = torch.rand(shape.tokens, shape.inputs), torch.rand(shape.outputs, shape.inputs)
    y, dw = torch.rand(shape.tokens, shape.outputs), torch.zeros(shape.outputs, shape.inputs)
    products = {
        "forward": lambda: torch.mm(x, w.t(), out=y),
        "input": lambda: torch.mm(y, w, out=x),
        "weight": lambda: dw.addmm_(y.t(), x),
    }
    if shape.model == "square":
        products["both"] = lambda: torch.mm(x.t(), w.t(), out=y)
    return products


def run_torch(shape: Shape, seconds: float) -> dict[str, float]:
    """Return PyTorch's GFLOP/s by product: the median over samples."""
    torch.set_num_threads(shape.threads)
    flops = 2 * shape.tokens * shape.outputs * shape.inputs
    rates = {}
    for name, product in torch_products(shape).items():
        product()  # touches the memory, sets up what PyTorch keeps
        start = time.perf_counter()
        product()
        calls = int(SAMPLE / (time.perf_counter() - start)) + 1
        times, begin = [], time.perf_counter()
        while time.perf_counter() - begin < seconds or not times:
            start = time.perf_counter()
            for _ in range(calls):
                product()
            times.append((time.perf_counter() - start) / calls)
        rates[name] = flops / statistics.median(times) / 1e9
    return rates


def print_table(samples: dict[tuple[Shape, str], dict[str, list[float]]]) -> None:
    """Print a row for each shape, with its products side by side."""
    print("| model | tokens x outputs x inputs | threads | Lockstep | share of peak | PyTorch | least ratio |")
    print("|---|---|---|---|---|---|---|")
    for shape in dict.fromkeys(shape for shape, _ in samples):
        products = [s for (of, _), s in samples.items() if of == shape]
        column = {name: [statistics.median(s[name] or [0]) for s in products] for name in ("ours", "peak", "theirs")}
        ratio = min(ours / theirs for ours, theirs in zip(column["ours"], column["theirs"]))
        text = {name: " / ".join(f"{x:.0f}" for x in column[name]) for name in column}
        size = f"{shape.tokens}x{shape.outputs}x{shape.inputs}"
        row = (shape.model, size, shape.threads, text["ours"], text["peak"] + " %", text["theirs"], f"{ratio:.2f}")
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as directory:
        binary = arguments.binary or build(directory)
        kernels = arguments.kernels or best_kernels(binary)
        first = run_lockstep(binary, f"^BenchmarkMatMul$/^{kernels}$", "1x")
        shapes = dict.fromkeys(s for s, _ in first if s.threads in arguments.threads)
        shapes = [s for s in shapes if re.search(arguments.shapes, f"{s.model}/{s.tokens}x{s.outputs}x{s.inputs}")]
        samples = {(s, p): {"ours": [], "theirs": [], "peak": []} for s, p in first if s in shapes}
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for s in shapes:
                pattern = f"^BenchmarkMatMul$/^{s.kernels}$/^{s.model}$/^{s.tokens}x{s.outputs}x{s.inputs}$/^threads={s.threads}$"
                ours = run_lockstep(binary, pattern, f"{arguments.seconds}s")
                theirs = run_torch(s, arguments.seconds)
                for p, rate in theirs.items():
                    samples[s, p]["ours"].append(ours[s, p]["GFLOP/s"])
                    samples[s, p]["theirs"].append(rate)
                    if "%peak" in ours[s, p]:
                        samples[s, p]["peak"].append(ours[s, p]["%peak"])
    print(f"kernel set {kernels}; PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}; medians of {arguments.rounds} rounds\n")
    print_table(samples)


if __name__ == "__main__":
    main()
