"""The verb that puts a model on a page and behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from unimo.cli.app import app, say


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="A run, checkpoint, saved folder or name on the hub; by default the newest run in runs/."),
    ] = None,
    index: Annotated[str | None, typer.Option(help="What is searched: an index made by `unimo index`.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all, for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="UNIMO_TOKEN", help="Only who sends it is answered.", show_envvar=True)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default a GPU if there is one.")] = None,
    max_batch: Annotated[int, typer.Option(help="Rows of one forward pass.", min=1)] = 32,
    wait_ms: Annotated[float, typer.Option(help="Milliseconds a request waits for others to join it.", min=0)] = 4.0,
    max_body_mb: Annotated[int, typer.Option(help="Megabytes of a request.", min=1)] = 20,
    max_megapixels: Annotated[int, typer.Option(help="Of an image, read from its header.", min=1)] = 24,
    max_requests: Annotated[int, typer.Option(help="Requests at work at once; more get 429.", min=1)] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds of a request from its first byte to its last.", min=1)] = 60,
) -> None:
    """Serve a model on a page and over HTTP: search, captions, answers, embeddings, dictionary, runs compared."""
    from unimo.serve import serve
    from unimo.serve.limits import Limits

    limits = Limits(
        max_body=max_body_mb * 1_000_000,
        max_pixels=max_megapixels * 1_000_000,
        max_requests=max_requests,
        timeout=timeout,
        max_batch=max_batch,
        wait=wait_ms / 1000,
    )
    serve(model, index=index, host=host, port=port, token=token, device=device, limits=limits, say=say)
