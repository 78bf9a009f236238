"""The machine: processors that may be used, by affinity and quota in made-up file systems, and what is installed."""

from __future__ import annotations

import os
import re
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from cutout.system import cgroup_quota, distributions, usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = "sys/fs/cgroup"


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose affinity mask has 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100000) -> dict[str, str]:
    return {
        f"{GROUPS}/{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{GROUPS}/{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("files", "quota", "usable"),
    [
        pytest.param({}, None, 16, id="no cgroups at all"),
        pytest.param({f"{GROUPS}/cpu.max": "max 100000\n"}, None, 16, id="version 2, no limit"),
        pytest.param({f"{GROUPS}/cpu.max": "200000 100000\n"}, 2.0, 2, id="version 2, two processors"),
        pytest.param({f"{GROUPS}/cpu.max": "150000 100000\n"}, 1.5, 2, id="one and a half keep two threads busy"),
        pytest.param({f"{GROUPS}/cpu.max": "25000 100000\n"}, 0.25, 1, id="a quarter is still one thread"),
        pytest.param({f"{GROUPS}/cpu.max": "6400000 100000\n"}, 64.0, 16, id="more than the affinity allows"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", f"{GROUPS}/a/b/cpu.max": "300000 100000\n"},
            3.0,
            3,
            id="version 2, nested",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{GROUPS}/a/cpu.max": "200000 100000\n",
                f"{GROUPS}/a/b/cpu.max": "max 100000\n",
            },
            2.0,
            2,
            id="a parent's limit counts",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{GROUPS}/a/cpu.max": "800000 100000\n",
                f"{GROUPS}/a/b/cpu.max": "400000 100000\n",
                f"{GROUPS}/a/b/c/cpu.max": "100000 100000\n",
            },
            4.0,
            4,
            id="the smallest on the way up, not a child's",
        ),
        pytest.param(v1("cpu", 200000), 2.0, 2, id="version 1"),
        pytest.param(v1("cpu", -1), None, 16, id="version 1, no limit"),
        pytest.param(
            {"proc/self/cgroup": "7:cpu,cpuacct:/docker/1\n1:name=systemd:/x\n", **v1("cpu,cpuacct/docker/1", 500000)},
            5.0,
            5,
            id="version 1, nested",
        ),
        pytest.param(
            {"proc/self/cgroup": "3:memory:/m\n2:cpuset:/s\n", **v1("memory/m", 100000), **v1("cpuset/s", 100000)},
            None,
            16,
            id="limits of other controllers",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../outside\n", f"{GROUPS}/cpu.max": "300000 100000\n"}, 3.0, 3, id="outside"
        ),
        pytest.param({f"{GROUPS}/cpu.max": "nonsense\n"}, None, 16, id="nonsense"),
        pytest.param({f"{GROUPS}/cpu.max": ""}, None, 16, id="an empty file"),
        pytest.param(v1("cpu", 100000, period=0), None, 16, id="a period of nothing"),
        pytest.param({f"{GROUPS}/cpu/cpu.cfs_quota_us": "100000"}, None, 16, id="version 1 without a period"),
        pytest.param(
            {"proc/self/cgroup": "rubbish\n:\n\n0::\n", **v1("cpu", 100000)}, 1.0, 1, id="a strange group list"
        ),
    ],
)
def test_the_containers_quota(tmp_path: Path, files: dict[str, str], quota: float | None, usable: int) -> None:
    root = tree(tmp_path, files)
    assert cgroup_quota(root) == quota
    assert usable_cpus(root) == usable


def test_the_affinity_mask_counts_not_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus(tmp_path) == 16


@pytest.mark.parametrize(("count", "usable"), [(8, 8), (None, 1)])
def test_a_system_without_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, usable: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_cpus(tmp_path) == usable


def test_this_machine_has_a_processor() -> None:
    assert 1 <= usable_cpus() <= 16


def test_what_is_installed_is_what_python_says() -> None:
    said = [(re.sub(r"[-_.]+", "-", found.name).lower(), found.version) for found in metadata.distributions()]
    assert len(said) > 20
    assert distributions() == dict(reversed(said)), "of two, the one that is found first counts"
