"""What a chat server sent, read strictly: a completion of the chat-completions protocol, a list of terms."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from eyeshine.errors import ResponderError
from eyeshine.responder.base import Response

__all__ = ["excerpt", "read_response", "read_terms"]

_CUT: Final = ("length", "content_filter")
"""Values of ``finish_reason`` that say that the text is not whole."""
_ROUNDING: Final = 1e-5
"""A log-probability may be above 0 by the rounding of a float32 log-softmax; more is no probability."""
_TERM: Final = re.compile(r"[^\W\d_][\w'’-]*(?: [\w'’-]+){0,2}")
"""Up to three words: a term, not a sentence."""


def excerpt(body: str | bytes) -> str:
    """The beginning of what was sent, for an error message, on one line."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def read_response(body: bytes, asked: str, wall_ms: float) -> Response:
    """Read the body of a chat completion.

    Args:
        body: as the server sent it.
        asked: the model that was asked for; taken where the server does not say which answered.
        wall_ms: how long it took.

    Raises:
        ResponderError: not a chat completion, an empty answer, or log-probabilities that are none.
    """
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        message = choice["message"]
        text, finish = message["content"], choice.get("finish_reason")
        tokens, logprobs = _read_logprobs(choice.get("logprobs"))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ResponderError(
            f"the answer of model {asked} is not a chat completion ({type(error).__name__}: {error})",
            got=excerpt(body), allowed="JSON with choices[0].message.content",
            cure="check that base_url is that of an OpenAI-compatible server, mostly one that ends in /v1",
        ) from error  # fmt: skip
    if text is None or (isinstance(text, str) and not text.strip()):
        got = f"content {text!r}, finish_reason {finish!r}, refusal {message.get('refusal')!r}"
        cure = "a larger max_tokens (a reasoning model may spend all of them on thinking), or another prompt"
        raise ResponderError(f"model {asked} answered nothing", got=got, cure=cure)
    if not isinstance(text, str):
        got = f"content of type {type(text).__name__}"
        raise ResponderError(f"the answer of model {asked} is not a text", got=got, allowed="a string")
    name = answer.get("model")
    model = name if isinstance(name, str) and name else asked
    return Response(text, tokens, logprobs, model, wall_ms, complete=finish not in _CUT)


def _read_logprobs(found: Any) -> tuple[tuple[str, ...], tuple[float, ...]] | tuple[None, None]:
    """Tokens and their log-probabilities; servers that know none leave them out, or send null or an empty list."""
    entries = None if found is None else found.get("content")
    if not entries:
        return None, None
    tokens = tuple(entry["token"] for entry in entries)
    logprobs = tuple(entry["logprob"] for entry in entries)
    if not all(isinstance(token, str) for token in tokens):
        raise TypeError("a token that is not a string")
    for value in logprobs:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError(f"log-probability {value!r}")
        if value > _ROUNDING:
            raise ValueError(f"log-probability {value} above 0")
    return tokens, tuple(min(float(value), 0.0) for value in logprobs)


def read_terms(response: Response, concept: str, limit: int) -> list[str]:
    """Terms of a comma-separated list, lower case, each once, without the concept; the first ``limit`` of them.

    Raises:
        ResponderError: an answer that was cut, several lines, fewer than two terms, or a term of more than three words.
    """
    listed = [term.strip().lower() for term in response.text.strip().removesuffix(".").split(",")]
    if not response.complete or len(listed) < 2 or not all(_TERM.fullmatch(term) for term in listed):
        raise ResponderError(
            f"model {response.model} did not answer with a list of terms", got=excerpt(response.text),
            allowed="two terms or more of up to three words each, separated by commas, on one line",
            cure="a larger max_tokens" if not response.complete else "another model, or HypernymTable",
        )  # fmt: skip
    return [term for term in dict.fromkeys(listed) if term != concept.lower()][:limit]
