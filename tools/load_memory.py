#!/usr/bin/env python3
"""Prints how fast a checkpoint loads onto CPU ranks, and how much host memory that takes beside the weights.

Run by launch/local.sh, with a fresh pool of ranks that has nothing loaded:

  launch/local.sh --backend cpu --ranks 2 -- python3 tools/load_memory.py DIR --tp 2

The time is that of the whole `tessera load`, with one sequence of --context tokens. A rank's peak is VmHWM of
/proc/PID/status: the page cache, from which files are read, is no part of it. Beside the weights: the peak, less the
rank's memory before the load, less its weights as `tessera plan` gives them. Of that the other buffers of the plan
stay (all but the KV cache, which no one touches while loading); the rest is what loading takes.
"""

import argparse
import json
import os
import pathlib
import time

from golden_check import run

MIB = 1 << 20


def ranks_of(coordinator):
    """Process ids of this cluster's workers."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = any(word.split("=", 1)[-1] == coordinator for word in words)
            if ours and (process / "comm").read_text().strip() == "tessera-worker":
                found.append(int(process.name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return sorted(found)


def status_bytes(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid}: no {field}")


def prepare(files, cold):
    """Puts the files into the page cache, or out of it."""
    for file in files:
        with open(file, "rb") as opened:
            if cold:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            while opened.read(16 * MIB):
                pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks, all of the pool [1]")
    parser.add_argument("--context", type=int, default=256, help="tokens of the one sequence [256]")
    parser.add_argument("--cold", action="store_true", help="read from the disk [from the page cache]")
    args = parser.parse_args()
    files = sorted(args.checkpoint.glob("*.safetensors"))
    sizes = [file.stat().st_size for file in files]
    pids = ranks_of(os.environ["TESSERA_COORDINATOR"])
    if len(pids) != args.tp:
        parser.error(f"--tp {args.tp}: the pool has {len(pids)} ranks here")

    shape = ["--tp", str(args.tp), "--pp", "1", "--context", str(args.context), "--max-sequences", "1"]
    plan = json.loads(run("plan", "--model", str(args.checkpoint), "--gpu", "cpu", *shape, "--json"))
    prepare(files, args.cold)
    before = [status_bytes(pid, "VmRSS") for pid in pids]
    start = time.monotonic()
    run("load", "--model", f"measured={args.checkpoint}", *shape)
    seconds = time.monotonic() - start
    peaks = [status_bytes(pid, "VmHWM") for pid in pids]

    total = sum(sizes)
    print(f"{args.checkpoint.name}: {len(files)} files, largest {max(sizes) / MIB:,.0f} MiB, {total / 1e9:.2f} GB, "
          f"tp {args.tp}, {'disk' if args.cold else 'page cache'}: {seconds:.2f} s, {total / seconds / 1e9:.2f} GB/s")
    plans = [rank["buffers"] for rank in plan["ranks"]]
    weights = max(buffers["weights"] for buffers in plans)
    others = max(sum(buffers.values()) - buffers["weights"] - buffers["kv"] for buffers in plans)
    for pid, was, peak in zip(pids, before, peaks, strict=True):
        head = f"  process {pid}: before {was / MIB:,.0f} MiB, peak {peak / MIB:,.0f} MiB, "
        beside = peak - was - weights
        if beside < 0:
            print(f"{head}{(peak - was) / MIB:,.0f} MiB more; the weights' {weights / MIB:,.0f} MiB are on the device")
        else:
            print(f"{head}weights {weights / MIB:,.0f} MiB; beside them {beside / MIB:,.0f} MiB, "
                  f"{(beside - others) / MIB:,.0f} MiB of it for loading")


if __name__ == "__main__":
    main()
