"""OpenAI's REST transcription, of August 2026 (openai-openapi). `POST /v1/audio/transcriptions`, multipart/form-data.

    file               what `asr transcribe` reads, and with the package av: WebM, MP4, AAC ...
    model, language    any; language is sent back in verbose_json
    response_format    json, text, srt, vtt, verbose_json
    timestamp_granularities[]   word, segment: of verbose_json
    stream             true: server-sent events, transcript.text.delta as words are found and transcript.text.done
    include[]          logprobs: of json, the tokens' log-probabilities
    keywords[], prompt phrases to be recognised more readily; of a prompt, what it lists between commas

temperature, chunking_strategy and the rest are ignored; diarized_json is refused. Confidence stands in verbose_json as
`avg_logprob`, of a segment's tokens. Recognised in chunks at the model's largest latency: the text of `asr transcribe
--latency` of it. Errors: HTTP 4xx and {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from asr.errors import ProtocolError
from asr.text import join_words
from asr.transcript import Transcript
from streaming.events import Event, Final, Partial
from streaming.protocols import phrases, shown, to_json
from streaming.protocols.appended import Appended

__all__ = ["Deltas", "Form", "RestError", "answer", "error_body", "log_probabilities", "parse_form"]

_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_PARTS, _HEADER_BYTES = 100, 8192


class RestError(ProtocolError):
    """Becomes the answer: an HTTP status and `error_body`."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def error_body(error: RestError) -> str:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    fields = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return to_json({"error": fields})


@dataclass(frozen=True, kw_only=True)
class Form:
    """What was asked. `file` is the audio as it was sent."""

    file: bytes
    response_format: str = "json"
    model: str = ""
    language: str = ""
    stream: bool = False
    granularities: tuple[str, ...] = ("segment",)
    log_probabilities: bool = False
    phrases: tuple[str, ...] = ()


def parse_form(content_type: str, body: bytes) -> Form:
    """Raises RestError for what is no form of this request."""
    parts = _parts(content_type, body)
    fields: dict[str, list[bytes]] = {}
    for name, data in parts:
        fields.setdefault(name.removesuffix("[]"), []).append(data)
    if "file" not in fields:
        raise RestError("file is missing: send the audio as a part named file", param="file")
    if not fields["file"][0]:
        raise RestError("file is empty", param="file")
    texts = {
        name: values[0][:1000].decode(errors="replace").strip()
        for name, values in fields.items()
        if name != "file"
    }
    form = texts.get("response_format") or "json"
    if form not in _FORMATS:
        raise RestError(
            f"response_format is {shown(form)}; it must be one of {', '.join(_FORMATS)}",
            param="response_format",
        )
    stream = texts.get("stream", "false").lower()
    if stream not in ("true", "false", "1", "0"):
        raise RestError(f"stream is {shown(stream)}; it must be true or false", param="stream")
    if stream in ("true", "1") and form not in ("json", "text"):
        raise RestError("stream goes with response_format json or text only", param="stream")
    wanted = fields.get("timestamp_granularities", [b"segment"])
    granularities = tuple(x.decode(errors="replace").strip() for x in wanted[:2])
    if not {"word", "segment"}.issuperset(granularities):
        raise RestError(
            "timestamp_granularities must be word, segment or both", param="timestamp_granularities"
        )
    keywords = [x.decode(errors="replace") for x in fields.get("keywords", [])]
    if not phrases.good(keywords):
        raise RestError(f"keywords must be {phrases.RULE}", param="keywords")
    return Form(
        file=fields["file"][0],
        response_format=form,
        model=texts.get("model", ""),
        language=texts.get("language", ""),
        stream=stream in ("true", "1"),
        granularities=granularities,
        log_probabilities=b"logprobs" in fields.get("include", []),
        phrases=phrases.tidy([*keywords, *phrases.prompted(texts.get("prompt", ""))]),
    )


def answer(form: Form, finals: Sequence[Final], duration: float) -> tuple[str, str]:
    """The whole transcript as (content type, body)."""
    transcript = Transcript(tuple(word for final in finals for word in final.words), duration)
    match form.response_format:
        case "text":
            return "text/plain; charset=utf-8", transcript.to_txt()
        case "srt":
            return "text/plain; charset=utf-8", transcript.to_srt()
        case "vtt":
            return "text/vtt; charset=utf-8", transcript.to_vtt()
        case "verbose_json":
            return "application/json", to_json(_verbose(form, transcript, finals))
    tree: dict[str, Any] = {"text": transcript.text, "usage": _usage(duration)}
    if form.log_probabilities:
        tree["logprobs"] = log_probabilities(finals)
    return "application/json", to_json(tree)


def log_probabilities(finals: Sequence[Final]) -> list[dict[str, Any]]:
    """OpenAI's `logprobs`: of each token its text, log-probability and bytes."""
    return [
        {"token": x.text, "logprob": round(x.log_probability, 6), "bytes": list(x.text.encode())}
        for final in finals
        for x in final.tokens
    ]


class Deltas:
    """Server-sent events of `stream=true`."""

    def __init__(self) -> None:
        self._new = Appended()

    def send(self, events: Sequence[Event]) -> str:
        parts = []
        for event in events:
            match event:
                case Partial():
                    parts.append(self._new.partial(event.text))
                case Final():
                    parts.append(self._new.final(event.text))
        return "".join(_event({"type": "transcript.text.delta", "delta": part}) for part in parts if part)

    def done(self, finals: Sequence[Final]) -> str:
        return _event({"type": "transcript.text.done", "text": join_words(final.text for final in finals)})

    def failed(self, error: RestError) -> str:
        return f"data: {error_body(error)}\n\n"


def _event(message: dict[str, Any]) -> str:
    return f"data: {to_json(message)}\n\n"


def _usage(duration: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(duration)}


def _verbose(form: Form, transcript: Transcript, finals: Sequence[Final]) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "task": "transcribe",
        "language": form.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": _usage(transcript.duration),
    }
    if "word" in form.granularities:
        tree["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
            for word in transcript.words
        ]
    if "segment" in form.granularities:
        tree["segments"] = [_segment(i, final) for i, final in enumerate(finals)]
    return tree


def _segment(number: int, final: Final) -> dict[str, Any]:
    logs = [token.log_probability for token in final.tokens]
    return {
        "id": number,
        "seek": 0,
        "start": round(final.start, 3),
        "end": round(final.end, 3),
        "text": f" {final.text}",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / len(logs), 4) if logs else 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """The parts of multipart/form-data (RFC 7578): names and contents."""
    header = Message()
    header["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")[:_HEADER_BYTES]
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise RestError("the body must be multipart/form-data with a boundary")
    mark = b"--" + boundary.encode(errors="replace")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark, _PARTS + 2)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise RestError(f"the body must consist of at most {_PARTS} parts, complete and between boundaries")
    parts = []
    for piece in pieces[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        if len(head) > _HEADER_BYTES:
            raise RestError("a part's header is too long")
        disposition = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n"))
        name = disposition.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise RestError("a part without a name")
        parts.append((name, data))
    return parts
