"""Stand-ins for benchmark programs: they take the flags that the real ones document, refuse all others, and answer
as the real ones do. A network is a file that begins with NETWORK."""

import argparse
import json
import sys
from pathlib import Path


def flags(*names):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in names:
        parser.add_argument(name)
    return parser.parse_args()


def check(model):
    if not Path(model).is_file() or not Path(model).read_bytes().startswith(b"NETWORK"):
        sys.exit(f"Failed to load the model {model}")


def benchmark_model():
    given = flags(
        "--graph", "--num_threads", "--num_runs", "--min_secs", "--warmup_runs", "--warmup_min_secs"
    )
    check(given.graph)
    print("Loaded model", given.graph)
    print("count=5 first=400 curr=300 min=300 max=400 avg=320 std=9")
    print(f"count={given.num_runs} first=301 curr=300 min=298 max=340 avg=302.5 std=4")
    print(
        "Inference timings in us: Init: 2000, First inference: 400, Warmup (avg): 320, Inference (avg): 302.5"
    )
    print("Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.5")


def onnxruntime_perf_test():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in "emrxyf":
        parser.add_argument(f"-{name}")
    parser.add_argument("-I", action="store_true")
    parser.add_argument("model")
    parser.add_argument("result")
    given = parser.parse_args()
    check(given.model)
    assert (given.e, given.m, given.I) == ("cpu", "times", True)
    print("Session creation time cost: 0.01 s")
    with open(given.result, "a") as file:
        for run in range(int(given.r)):
            print(f"net,{0.0003 if run >= 5 else 0.9},9000000,99,{run}", file=file)


def executor_runner():
    given = flags("--model_path", "--num_executions", "--cpu_threads")
    check(given.model_path)
    calls = int(given.num_executions)
    for call in range(1, calls + 1):
        print(f"I 00:00:00.1 x.cpp:5] Iteration {call} of {calls}: {0.3 if call > 5 else 9.0} ms")
    print(
        f"I 00:00:00.2 executorch:executor_runner.cpp:9] Model executed successfully {calls} time(s) in 9.5 ms."
    )


def trtexec():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("onnx", "saveEngine", "loadEngine", "warmUp", "duration", "iterations", "exportTimes"):
        parser.add_argument(f"--{name}")
    for name in ("useCudaGraph", "noDataTransfers", "useSpinWait"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    check(given.onnx or given.loadEngine)
    if given.saveEngine:
        Path(given.saveEngine).write_bytes(b"NETWORK as an engine")
    warm = [{"startComputeMs": 1.0, "computeMs": 9.0, "latencyMs": 9.0}]
    taken = [
        {"startComputeMs": 200.0 + i, "computeMs": 0.3, "latencyMs": 0.3}
        for i in range(int(given.iterations))
    ]
    Path(given.exportTimes).write_text(json.dumps(warm + taken))
    print("&&&& PASSED TensorRT.trtexec")


def ais_bench():
    given = flags("--model", "--loop", "--warmup_count")
    check(given.model)
    print("[INFO] -----------------Performance Summary------------------")
    print(
        "[INFO] NPU_compute_time (ms): min = 0.2, max = 0.5, mean = 0.31, median = 0.3, percentile(99%) = 0.5"
    )


def msame():
    given = flags("--model", "--output", "--loop")
    check(given.model)
    for call in range(int(given.loop)):
        print(f"[INFO] model execute success\nInference time: {0.3 if call >= 5 else 9.0}ms")
    print("Inference average time: 0.35 ms\nInference average time without first time: 0.3 ms")


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
