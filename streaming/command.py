"""`asr serve`; `asr.cli` names it. What it needs is imported when it runs, so that `--help` does not wait for torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.options import NOTHING_SAID, Fast, SearchOptions, option, searching

if TYPE_CHECKING:
    from streaming.protocols import Limits
    from streaming.server import Server

__all__ = ["serve"]


@searching(
    lm=option(
        "Of --lm, the one for clients that choose none. Makes it a beam search.",
        "--default-lm",
        metavar="NAME",
    ),
    lodr=option("Of --lm, the bigram of tokens that is taken away for such clients.", metavar="NAME"),
)
def serve(
    model: Annotated[
        list[str] | None,
        option(
            "BUNDLE or NAME=BUNDLE; again for others to choose from. Default: $RILL_MODEL, or the embedded one.",
            "--model",
            "-m",
            metavar="BUNDLE",
        ),
    ] = None,
    engine: Annotated[str, option("torch, or onnx: ONNX Runtime.", metavar="NAME")] = "torch",
    device: Annotated[
        str | None, option("cpu or cuda. Default: a GPU, if there is one.", metavar="NAME")
    ] = None,
    precision: Annotated[str, option("float32, bfloat16 or int8.", metavar="KIND")] = "float32",
    fast: Fast = False,
    host: Annotated[str, option("0.0.0.0 listens to other machines, too.", metavar="NAME")] = "127.0.0.1",
    port: Annotated[int, option("0 takes a free one.", metavar="N")] = 8000,
    latency: Annotated[
        int | None, option("For clients that do not choose. Default: the lowest from 300.", metavar="MS")
    ] = None,
    language_model: Annotated[
        list[str] | None,
        option(
            "Language model that clients may choose by this name: n-grams (ARPA, KenLM) or a neural one's bundle; "
            "may be given again. MODEL:NAME=PATH: of one of several models.",
            "--lm",
            metavar="NAME=PATH",
        ),
    ] = None,
    search: SearchOptions = NOTHING_SAID,
    root: Annotated[
        str, option("What websockets on / speak: sherpa, vosk, wenet, funasr ...", metavar="PROTOCOL")
    ] = "sherpa",
    sessions: Annotated[int, option("Sessions at a time.", metavar="N")] = 100,
    limit: Annotated[
        list[str] | None,
        option(
            "Another limit, such as session_seconds=86400 or address_sessions=4; may be given again. "
            "All are listed in streaming/protocols/README.md.",
            metavar="NAME=N",
        ),
    ] = None,
    max_batch: Annotated[int, option("Sessions in one step of the model.", metavar="N")] = 64,
    threads: Annotated[int | None, option("Cores that steps may use. Default: all.", metavar="N")] = None,
    token: Annotated[
        list[str] | None,
        option(
            "Clients must bring one of these; may be given again.", metavar="SECRET", envvar="RILL_TOKENS"
        ),
    ] = None,
    origin: Annotated[
        list[str] | None, option("Pages that browsers may connect from. Default: any.", metavar="URL")
    ] = None,
    proxy: Annotated[
        list[str] | None,
        option("Address or network of a proxy whose X-Forwarded-For is believed.", metavar="ADDRESS"),
    ] = None,
    certificate: Annotated[
        Path | None, option("With --private-key: TLS only. SIGHUP reloads both.", metavar="PEM")
    ] = None,
    private_key: Annotated[Path | None, option("Its key.", metavar="PEM")] = None,
    verbose: Annotated[bool, option("Log sessions to stderr, too.", "--verbose", "-v")] = False,
    log_text: Annotated[bool, option("Log what was recognised, too.", "--log-text")] = False,
) -> None:
    """Serve live audio over websockets, with a page to try it in the browser. Ctrl-C or SIGTERM drains and ends.

    How is searched is for clients that do not choose; those of the native protocol may.

    The log on stderr is one JSON object a line; it holds no audio, no tokens, and text only with --log-text.

    \b
    Examples:
      asr serve
      asr serve --model runs/an4/bundle --host 0.0.0.0 --port 443 --certificate cert.pem --private-key key.pem
      asr serve --model en=models/english --model de=models/german --limit session_seconds=86400
      asr serve --lm news=news.arpa --lm calls=runs/english-lm/bundle --default-lm calls --beam 4
    """
    from asr.search.config import SearchConfig
    from streaming.engines import device_for, load_engines, share
    from streaming.log import set_up
    from streaming.server import Settings, run

    def started(server: Server) -> None:
        page = server.url.replace("ws", "http", 1).removesuffix("v1/stream")
        typer.echo(f"listening on {server.url}\ntry it in a browser: {page}\nCtrl-C ends")

    device = device_for(device, engine=engine)
    processes, threads = share(threads, engine=engine, device=device)
    settings = Settings(
        host=host,
        port=port,
        limits=_limits(sessions, limit or ()),
        tokens=tuple(token or ()),
        origins=tuple(origin) if origin else None,
        proxies=tuple(proxy or ()),
        certificate=None if certificate is None else str(certificate),
        private_key=None if private_key is None else str(private_key),
        default_latency_ms=latency,
        root=root,
        max_batch=max_batch,
        search=SearchConfig(**search.given()),
        processes=processes,
    )
    set_up(verbose=verbose or log_text, text=log_text)
    engines = load_engines(
        model or (),
        engine=engine,
        precision=precision,
        fast=fast,
        threads=threads,
        device=device,
        language_models=language_model or (),
    )
    run(engines, settings, started=started)


def _limits(sessions: int, limits: Sequence[str]) -> Limits:
    from asr import strict_yaml
    from asr.config import from_dict
    from asr.errors import ConfigError
    from streaming.protocols import Limits

    found: dict[str, Any] = {"sessions": sessions}
    for one in limits:
        name, sign, _ = one.partition("=")
        if not sign:
            raise ConfigError(f"--limit {one}: write it as NAME=N, such as idle_seconds=300")
        tree, _ = strict_yaml.parse(f"{name}: {one.partition('=')[2]}", "--limit")
        found |= tree if isinstance(tree, dict) else {}
    return from_dict(Limits, found, where="--limit")
