"""What is shipped for running the service names what the service has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import yaml
from conftest import ROOT
from served import Process, until
from small import brightness_model, half
from stores import own_redis

from cutout.service.metrics import Metrics
from cutout.service.queue import WorkQueue

if TYPE_CHECKING:
    from pathlib import Path
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


def test_what_the_compose_file_starts_works_together(tmp_path: Path) -> None:
    """Its commands with a Redis, a key and a port of ours; without an engine for containers."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (tmp_path / "keys").write_text("a-key-of-ours\n")
    model = str(brightness_model(tmp_path))
    with own_redis(tmp_path) as server:

        def options(name: str) -> list[str]:
            ours = {"redis://redis:6379/0": server.url, "/run/secrets/api-keys": str(tmp_path / "keys")}
            return [ours.get(word, word) for word in services[name]["command"]][1:]

        service = Process(tmp_path, *options("service"), "--model", model)
        command = [sys.executable, "-m", "cutout", "worker", *options("worker"), "--model", model]
        with (tmp_path / "worker").open("wb") as log:
            worker = subprocess.Popen(command, stderr=log)
        service.client.headers["X-Api-Key"] = "a-key-of-ours"
        files = [("files", ("a.png", half(tmp_path / "half.png").read_bytes()))]
        answer = service.client.post("/batch-remove-background", files=files)
        assert answer.status_code == 202, answer.text
        task = answer.json()["task_id"]
        until(lambda: service.client.get(f"/task-status/{task}").json()["state"] == "finished")
        until(lambda: service.client.get("/ready").json()["batch_workers"] == 1)
        assert service.client.get(f"/task-result/{task}/0").status_code == 200
        worker.terminate()
        assert [worker.wait(60), service.stop()] == [0, 0]
