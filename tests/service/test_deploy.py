"""What is shipped for running the service names what the service has."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from conftest import ROOT

from cutout.service.metrics import Metrics
from cutout.service.queue import WorkQueue

if TYPE_CHECKING:
    from typing import Any


def test_every_metric_of_the_dashboard_exists() -> None:
    queue = WorkQueue(1, 1)
    metrics = Metrics(queue)
    queue.close()
    metrics.requests.labels("/", "200").inc()
    metrics.seconds.labels("/").observe(1)
    metrics.stages.labels("decode").observe(1)
    metrics.pictures.labels("request", "done").inc()
    metrics.loads.labels("u2netp").inc()
    text = metrics.text(device="cpu", pending=0).decode()
    there = {*re.findall(r"^(\w+)[{ ]", text, re.MULTILINE), "cutout_gpu_memory_bytes"}
    dashboard: Any = json.loads((ROOT / "deploy/grafana/dashboards/cutout.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\b(?:cutout|process)_\w+", target["expr"])) <= there


def test_the_options_in_the_compose_file_exist() -> None:
    from typer.main import get_command

    from cutout.cli import app

    commands: Any = get_command(app)
    lines = re.findall(r"command: \[(serve|worker), (.*)\]", (ROOT / "docker-compose.yml").read_text())
    assert {name for name, _ in lines} == {"serve", "worker"}
    for name, options in lines:
        known = {option for parameter in commands.get_command(None, name).params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known


def test_temporary_files_of_the_service_are_not_counted_as_its_memory() -> None:
    """A batch and its archive may be as large as the limit of the memory."""
    service = re.split(r"\n\n", (ROOT / "docker-compose.yml").read_text())[0]
    assert "memory:" in service
    assert "tmpfs" not in re.sub(r"#.*", "", service)
    assert re.search(r'volumes: \[.*"temporary:/tmp"', service)
