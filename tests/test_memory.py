"""A process that stays small."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, threading
from pathlib import Path
from cutout.system import keep_small
keep_small()
gate = threading.Barrier(5)
def work():
    kept = [bytearray(1000 + number) for number in range(4000)]  # small enough to come from a heap
    gate.wait()
    gate.wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
gate.wait()
# every further heap of glibc is mapped whole, and takes its 64 MB of address space
print(sum("00000000 00:00 0 " in line and line.split()[1] == "---p" for line in Path("/proc/self/maps").open()))
print(os.environ["OPENBLAS_NUM_THREADS"])
"""


def look(**environ: str) -> list[int]:
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    clean.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", CODE]
    said = subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=True).stdout
    return [int(line) for line in said.split()]


CLEARED = """
import os, resource
from cutout.system import keep_for_the_next
keep_for_the_next()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(b"1") * (20 << 20)  # as large as the arrays of an inference
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's malloc that is told")
def test_memory_that_was_given_back_is_used_again() -> None:
    def pages(**environ: str) -> int:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", CLEARED]
        return int(subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=True).stdout)

    assert pages() < 100
    assert pages(MALLOC_TRIM_THRESHOLD_="100000") > 20_000  # what the user has set is left alone


@pytest.mark.skipif(sys.platform != "linux", reason="heaps of threads are glibc's")
def test_threads_share_one_heap() -> None:
    ours, _ = look()
    many, _ = look(MALLOC_ARENA_MAX="8")  # what the user has set is left alone
    assert ours < many


def test_blas_has_one_thread_unless_the_user_says_otherwise() -> None:
    assert look()[1] == 1
    assert look(OPENBLAS_NUM_THREADS="3")[1] == 3
