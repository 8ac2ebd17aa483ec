#!/usr/bin/env python3
"""Checks that every #include follows the layers of docs/architecture.md. Prints each offence; exit 1 if any."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each folder may include besides itself.
ALLOWED = {
    "common": set(),
    "model": {"common"},
    "kernels": {"common"},
    "parallel": {"kernels", "common"},
    "layers": {"parallel", "kernels", "model", "common"},
    "moe": {"layers", "parallel", "kernels", "model", "common"},
    "planner": {"model", "common"},
    "worker": {"moe", "layers", "parallel", "kernels", "planner", "model", "proto", "common"},
    "coordinator": {"planner", "model", "proto", "common"},
    "client": {"planner", "model", "proto", "common"},
}
ANYTHING = {"tests", "benchmarks"}
# Headers of kernels/ that are pure host arithmetic or types, open to the planner and those above it.
CONFIG_HEADER = re.compile(r"^kernels/(.*_config|runtime/stream)\.h$")
FORBIDDEN_PACKAGES = {
    "coordinator": ("cuda", "nccl", "mpi.h"),
    "client": ("cuda", "nccl", "mpi.h"),
    "planner": ("cuda", "nccl", "mpi.h", "grpc"),
    "model": ("cuda", "nccl", "mpi.h", "grpc"),
    "common": ("cuda", "nccl", "mpi.h", "grpc"),
}
INCLUDE = re.compile(r'^\s*#include\s+(["<])([^">]+)[">]', re.MULTILINE)


def offences(path: pathlib.Path):
    relative = path.relative_to(ROOT).as_posix()
    folder = relative.split("/")[0]
    for bracket, target in INCLUDE.findall(path.read_text(encoding="utf-8")):
        if bracket == "<":
            for package in FORBIDDEN_PACKAGES.get(folder, ()):
                if target.startswith(package):
                    yield f"{relative}: includes <{target}>"
            continue
        if "/" not in target:
            yield f'{relative}: "{target}" is not a path from the root'
            continue
        to = target.split("/")[0]
        if to == folder or folder in ANYTHING:
            continue
        if folder not in ALLOWED:
            yield f"{relative}: folder {folder}/ is not in the layer table"
        elif to not in ALLOWED[folder]:
            if folder in ("planner", "coordinator", "client") and CONFIG_HEADER.match(target):
                continue
            yield f'{relative}: {folder} may not include "{target}"'


def main() -> int:
    found = []
    for folder in sorted([*ALLOWED, *ANYTHING]):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".h", ".cc", ".cu", ".cuh"}:
                found.extend(offences(path))
    print("\n".join(found) if found else "layers: every include follows the table")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
