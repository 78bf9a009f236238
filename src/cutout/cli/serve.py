"""`cutout serve`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - Typer reads annotations
from typing import Annotated

from cutout.cli.options import jobs_option, memory_option, option
from cutout.errors import UsageError
from cutout.models.registry import DEFAULT_MODEL

__all__ = ["LogFormat", "serve"]

_NET, _MODEL, _LIMIT, _BATCH = "Network", "Models", "Limits", "Batches"


class LogFormat(StrEnum):
    """How logs are written."""

    TEXT = "text"
    JSON = "json"


class Closable(StrEnum):
    """What may ask for an API key, and does not unless it is said; see `service.settings.CLOSABLE`."""

    METRICS = "metrics"
    PAGES = "pages"
    READY = "ready"


def serve(
    host: Annotated[
        str, option("--host", text="Address to listen on; 0.0.0.0 for all, with --api-key.", panel=_NET)
    ] = "127.0.0.1",
    port: Annotated[int, option("--port", "-p", text="0 takes a free one.", min=0, max=65535, panel=_NET)] = 8000,
    api_key: Annotated[
        list[str] | None, option("--api-key", text="Who sends it may use the service. Can be repeated.", panel=_NET)
    ] = None,
    api_key_file: Annotated[
        Path | None, option("--api-key-file", text="A file of API keys, one a line.", panel=_NET)
    ] = None,
    closed: Annotated[
        list[Closable] | None,
        option(
            "--closed",
            text="What asks for an API key too: metrics, ready (/ready), or pages (the web page and the descriptions)."
            " Can be repeated.",
            panel=_NET,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        option("--origin", text="Web origin whose pages may call the service (CORS). Can be repeated.", panel=_NET),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        option(
            "--allowed-host",
            text="Name that requests may call it by, beside localhost and addresses; * for any. Can be repeated.",
            panel=_NET,
        ),
    ] = None,
    trust_proxy: Annotated[
        str | None,
        option("--trust-proxy", text="Addresses of proxies whose X-Forwarded-For is believed.", panel=_NET),
    ] = None,
    root_path: Annotated[
        str,
        option("--root-path", text="Path below which a proxy shows the service, such as /cutout.", panel=_NET),
    ] = "",
    image_url: Annotated[
        bool, option("--image-url", text="Let requests name pictures on the internet by image_url.", panel=_NET)
    ] = False,
    model: Annotated[
        list[str] | None,
        option("--model", "-m", text="A model to open. Can be repeated; the first is the default.", panel=_MODEL),
    ] = None,
    device: Annotated[str | None, option("--device", "-d", text="auto, cpu, cuda, ...", panel=_MODEL)] = None,
    preload: Annotated[
        bool,
        option(
            "--preload/--no-preload", text="Open the models before listening, or while /ready says no.", panel=_MODEL
        ),
    ] = True,
    jobs: Annotated[int, jobs_option(_LIMIT)] = 0,
    memory_limit: Annotated[str | None, memory_option(_LIMIT)] = None,
    queue: Annotated[
        int, option("--queue", text="Requests admitted at once; further ones get 503.", min=1, panel=_LIMIT)
    ] = 128,
    timeout: Annotated[float, option("--timeout", text="Seconds that a request may take.", panel=_LIMIT)] = 120,
    max_body: Annotated[int, option("--max-body", text="Megabytes of one picture.", min=1, panel=_LIMIT)] = 10,
    max_pixels: Annotated[
        int, option("--max-pixels", text="Refuse larger pictures.", min=1, metavar="N", panel=_LIMIT)
    ] = 40_000_000,
    max_files: Annotated[int, option("--max-files", text="Pictures of one batch.", min=1, panel=_BATCH)] = 50,
    max_tasks: Annotated[
        int, option("--max-tasks", text="Unfinished batches of one client.", min=1, panel=_BATCH)
    ] = 16,
    expiry: Annotated[
        float, option("--expiry", text="Seconds that the results of a batch can be fetched.", panel=_BATCH)
    ] = 300,
    folder: Annotated[
        Path | None, option("--folder", text="Where batches are kept. (default: the user's data folder)", panel=_BATCH)
    ] = None,
    broker: Annotated[
        str | None,
        option("--broker", text="redis://HOST:PORT/N: give batches to `cutout worker` processes.", panel=_BATCH),
    ] = None,
    redelivery: Annotated[
        float,
        option(
            "--redelivery", text="Seconds after which a picture whose worker has died goes to another.", panel=_BATCH
        ),
    ] = 60,
    log_format: Annotated[LogFormat, option("--log-format", text="text or json, on standard error.")] = LogFormat.TEXT,
) -> None:
    """Serve an HTTP interface and a web page (needs the extra serve)."""
    from dataclasses import replace

    from cutout.cli.options import needs
    from cutout.system import usable_cpus

    with needs("serve,cluster" if broker else "serve"):
        if broker:
            import cutout.service.store.redis  # noqa: F401 - a missing extra ends the command now
        from cutout.service.http.server import serve as run
        from cutout.service.settings import Settings, read_keys
    keys = (*(api_key or ()), *(read_keys(api_key_file) if api_key_file else ()))
    settings = Settings(
        models=tuple(model or [DEFAULT_MODEL]),
        device=device,
        workers=jobs or usable_cpus(),
        memory_limit=memory_limit,
        queue=queue,
        timeout=timeout,
        max_body=max_body * 1_000_000,
        max_pixels=max_pixels,
        max_files=max_files,
        max_tasks=max_tasks,
        expiry=expiry,
        api_keys=keys,
        closed=frozenset(closed or ()),
        origins=tuple(origin or ()),
        allowed_hosts=_names(allowed_host or []),
        root_path=root_path.rstrip("/"),
        image_url=image_url,
        broker=broker,
        redelivery=redelivery,
    )
    if folder is not None:
        settings = replace(settings, folder=folder)
    if any("*" in entry for entry in settings.origins):
        raise UsageError("--origin names one origin, such as https://shop.example", hint="repeat it for several")
    run(settings, host=host, port=port, preload=preload, log_format=log_format.value, trust_proxy=trust_proxy)


def _names(given: list[str]) -> tuple[str, ...]:
    """Names of hosts.

    Raises:
        UsageError: One is an address with scheme, port or path.
    """
    names = tuple(name.strip().lower().rstrip(".") for name in given)
    for name in names:
        if not name or any(sign in name for sign in ":/@ ") or (name != "*" and "*" in name.removeprefix("*.")):
            raise UsageError(
                f"--allowed-host {name!r} is not the name of a host",
                hint="such as cutout.example, *.example for all below it, or * for any; without scheme and port",
            )
    return names
