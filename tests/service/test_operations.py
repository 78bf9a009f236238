"""What who runs the service sees of it: where it listens, what warns, what asks for a key."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from served import Process, quick, served
from small import brightness_model

from cutout.cli.serve import Closable
from cutout.errors import UsageError
from cutout.service.settings import CLOSABLE, Settings

if TYPE_CHECKING:
    from pathlib import Path

KEY = {"X-Api-Key": "some-key"}


@pytest.mark.parametrize("closed", [set(), {"metrics"}, {"pages"}, {"ready", "metrics"}])
def test_what_is_closed_asks_for_the_key_and_nothing_else_does(tmp_path: Path, closed: set[str]) -> None:
    settings, models = quick(tmp_path, api_keys=("some-key",), closed=frozenset(closed))
    with served(settings, models, ready=KEY) as client:
        for name, paths in CLOSABLE.items():
            for path in paths:
                assert client.get(path).status_code == (401 if name in closed else 200), path
                assert client.get(path, headers=KEY).status_code == 200, path
        assert client.get("/health").status_code == 200
        described = client.get("/openapi.json", headers=KEY).json()["paths"]
        assert (described["/metrics"]["get"]["security"] == []) == ("metrics" not in closed)


def test_nothing_can_be_closed_without_keys(cutout: Any) -> None:
    with pytest.raises(UsageError, match="no API key"):
        Settings(closed=frozenset({"metrics"}))
    run = cutout("serve", "--closed", "metrics")
    assert (run.code, "--api-key" in run.err) == (2, True)
    assert set(Closable) == set(CLOSABLE)


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [("127.0.0.1", (), False), ("0.0.0.0", ("--api-key", "some-key"), False), ("0.0.0.0", (), True)],
)
def test_a_service_for_everybody_warns(tmp_path: Path, host: str, keys: tuple[str, ...], warns: bool) -> None:
    process = Process(tmp_path, "--model", str(brightness_model(tmp_path)), "--host", host, *keys)
    logged = [line for line in process.log.read_text().splitlines() if "without an API key" in line]
    assert process.stop() == 0
    assert len(logged) == warns
    assert all('"level": "warning"' in line for line in logged)


def test_an_address_of_ipv6_is_printed_as_it_is_typed(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    process = Process(tmp_path, "--model", str(brightness_model(tmp_path)), "--host", "::1")
    assert process.url.startswith("http://[::1]:")
    assert process.client.get("/health").status_code == 200
    assert process.stop() == 0
