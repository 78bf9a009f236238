"""`cutout worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from cutout.cli.options import jobs_option, memory_option, needs, option
from cutout.cli.serve import LogFormat
from cutout.models.registry import DEFAULT_MODEL

__all__ = ["worker"]


def worker(
    broker: Annotated[
        str, typer.Option("--broker", help="redis://HOST:PORT/N, as given to `cutout serve`.", envvar="CUTOUT_BROKER")
    ],
    model: Annotated[
        list[str] | None, option("--model", "-m", text="A model to open: the same ones as the service has.")
    ] = None,
    device: Annotated[str | None, option("--device", "-d", text="auto, cpu, cuda, ...")] = None,
    jobs: Annotated[int, jobs_option()] = 0,
    memory_limit: Annotated[str | None, memory_option()] = None,
    max_pixels: Annotated[int, option("--max-pixels", text="Refuse larger pictures.", min=1, metavar="N")] = 40_000_000,
    expiry: Annotated[float, option("--expiry", text="Seconds that the results of a batch can be fetched.")] = 300,
    redelivery: Annotated[
        float,
        option("--redelivery", text="Seconds after which a picture whose worker has died goes to another one."),
    ] = 60,
    log_format: Annotated[LogFormat, option("--log-format", text="text or json, on standard error.")] = LogFormat.TEXT,
) -> None:
    """Work on the batches of `cutout serve --broker`, on this or another machine (needs the extra cluster)."""
    from cutout.system import usable_cpus

    with needs("serve,cluster"):
        from cutout.service import logs
        from cutout.service.models import Models
        from cutout.service.runner import do
        from cutout.service.settings import Settings
        from cutout.service.store.redis import work
    settings = Settings(
        models=tuple(model or [DEFAULT_MODEL]),
        device=device,
        workers=jobs or usable_cpus(),
        memory_limit=memory_limit,
        max_pixels=max_pixels,
        expiry=expiry,
        broker=broker,
        redelivery=redelivery,
    )
    logs.set_up(log_format.value)
    models = Models(settings, warn=logs.warning)
    try:
        work(
            broker,
            concurrency=settings.workers,
            redelivery=redelivery,
            expiry=expiry,
            do=lambda item, kept: do(item, kept, models, max_pixels=max_pixels),
        )
    finally:
        models.close()
