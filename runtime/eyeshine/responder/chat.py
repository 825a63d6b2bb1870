"""Any server that speaks OpenAI's chat-completions protocol: vLLM, llama.cpp's server, Ollama, hosted models."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from eyeshine.errors import OptionError, ResponderError
from eyeshine.images import ImageLike
from eyeshine.responder.answers import excerpt, read_response, read_terms
from eyeshine.responder.base import Response
from eyeshine.responder.concepts import noun, with_article
from eyeshine.responder.pictures import data_url
from eyeshine.texts import check_texts

if TYPE_CHECKING:
    import openai

__all__ = ["API_KEY_VARIABLE", "ChatResponder"]

API_KEY_VARIABLE: Final = "EYESHINE_CHAT_API_KEY"
"""Not OPENAI_API_KEY: that one would go, in clear text, to whatever server ``base_url`` names."""

_EXPAND: Final = (
    "Name up to {limit} things that can be seen in a photograph and are kinds of {concept}. "
    "Answer with their names alone, in the singular, separated by commas, on one line."
)
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "timeout_s": (0.001, 3600),
    "retries": (0, 10),
    "max_tokens": (1, 1_000_000),
    "temperature": (0, 2),
    "max_side_px": (16, 16_384),
    "max_image_bytes": (1_000, 100_000_000),
    "max_terms": (2, 100),
}
_WHOLE: Final = ("retries", "max_tokens", "max_side_px", "max_image_bytes", "max_terms")


@dataclass(frozen=True)
class ChatResponder:
    """A responder behind an OpenAI-compatible endpoint. May be used from several threads.

    Attributes:
        base_url: of the server, mostly ending in /v1: "http://localhost:8000/v1".
        model: as the server names it.
        api_key: by default from the environment variable EYESHINE_CHAT_API_KEY; servers of one's own need none.
        timeout_s: how long the server may take to connect, and then be silent, in each attempt; seconds.
        retries: attempts beyond the first, after growing pauses, where the server cannot be reached, is silent for too
            long, busy (HTTP 408, 409, 429) or broken (HTTP 5xx).
        max_tokens: of an answer.
        temperature: 0 (the likeliest token) to 2.
        logprobs: ask for log-probabilities; a server that has none sends none, a few refuse the request.
        max_side_px: images are shrunk to it, longer side in pixels.
        max_image_bytes: of an image file before base64; what is larger as PNG is sent as JPEG.
        max_terms: how many terms ``expand`` takes.

    Raises:
        OptionError: an option outside its range.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    retries: int = 2
    max_tokens: int = 256
    temperature: float = 0.0
    logprobs: bool = True
    max_side_px: int = 1024
    max_image_bytes: int = 2_000_000
    max_terms: int = 8

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            raise OptionError(
                "base_url is not an address", got=repr(self.base_url), allowed="http://... or https://..."
            )
        if not isinstance(self.model, str) or not self.model.strip():
            raise OptionError("model needs a name", got=repr(self.model), cure="the server lists its models at /models")
        for name, (low, high) in _RANGES.items():
            value, kinds = getattr(self, name), int if name in _WHOLE else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                kind = "whole numbers " if name in _WHOLE else ""
                raise OptionError(f"{name} is out of range", got=repr(value), allowed=f"{kind}{low:g}..{high:g}")

    def respond(self, image: ImageLike, prompt: str) -> Response:
        """Answer a prompt about an image, which is sent as a data URL.

        Raises:
            ImageError: not an image, or one that is too large to send.
            TextError: a blank prompt.
            ResponderError: the server is down, silent, refuses, or answers something that is no chat completion; or the
                openai client is not installed.
        """
        check_texts([prompt], "prompt")
        picture = data_url(image, max_side_px=self.max_side_px, max_bytes=self.max_image_bytes)
        content: list[dict[str, Any]] = [
            {"type": "text", "text": prompt},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        return self._ask(content, logprobs=self.logprobs)

    def expand(self, concept: str) -> list[str]:
        """Ask the model for kinds of a concept; with an article where the concept has one ("a vehicle": "a car").

        Raises:
            TextError: a blank concept.
            ResponderError: as ``respond``; or an answer that is not a list of terms.
        """
        check_texts([concept], "concept")
        name = noun(concept)
        question = _EXPAND.format(limit=self.max_terms, concept=name)
        response = self._ask([{"type": "text", "text": question}], logprobs=False)
        return with_article(concept, read_terms(response, name, self.max_terms))

    def _ask(self, content: list[dict[str, Any]], *, logprobs: bool) -> Response:
        openai = _openai()
        # A client for every question: nothing to close, and its 28 ms are small beside an answer.
        key = self._key()
        started = perf_counter()
        try:
            with openai.OpenAI(
                base_url=self.base_url, api_key=key, timeout=self.timeout_s, max_retries=self.retries
            ) as client:
                # The raw body: parsed, the client hands out garbage as it came, without a complaint.
                raw = client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "user", "content": content}],
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    logprobs=True if logprobs else openai.NOT_GIVEN,
                )
                body = raw.content
        except openai.OpenAIError as error:
            raise self._failed(error, logprobs) from error
        return read_response(body, self.model, (perf_counter() - started) * 1e3)

    def _key(self) -> str:
        """What is sent as the key: the client wants one, servers of one's own do not look at it."""
        key = self.api_key or os.environ.get(API_KEY_VARIABLE) or "none"
        if not (key.isascii() and key.isprintable()):
            where = "api_key" if self.api_key else API_KEY_VARIABLE
            raise OptionError(f"{where} cannot be sent in a header", got="a key", allowed="printable ASCII")
        return key

    def _failed(self, error: openai.OpenAIError, logprobs: bool) -> ResponderError:
        """What went wrong, and its cure."""
        openai = _openai()
        attempts = f"{self.retries + 1} attempt{'s' if self.retries else ''}"
        if isinstance(error, openai.APITimeoutError):
            what, got = "the responder did not answer in time", f"{attempts} of {self.timeout_s:g} s: {self.base_url}"
            return ResponderError(what, got=got, cure="a larger timeout_s, a smaller max_tokens, or a faster server")
        if isinstance(error, openai.APIStatusError):
            got = f"HTTP {error.status_code} for model {self.model}: {excerpt(error.response.content)}"
            return ResponderError(f"the responder at {self.base_url} refused", got=got, cure=_cure(error, logprobs))
        if isinstance(error, openai.APIConnectionError):
            what, got = "the responder cannot be reached", f"{attempts}: {self.base_url} ({error.__cause__ or error})"
            return ResponderError(what, got=got, cure="start the server, or check base_url")
        return ResponderError("the openai client failed", got=f"{type(error).__name__}: {error}")


def _is_address(value: object) -> bool:
    """Whether it is http(s) with a host, and a port where one is given."""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises where it is no port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _cure(error: openai.APIStatusError, logprobs: bool) -> str:
    status = error.status_code
    if status in (401, 403):
        return f"pass api_key, or set {API_KEY_VARIABLE}"
    if status == 404:
        return (
            "check base_url, mostly one that ends in /v1, and the name of the model: the server lists them at /models"
        )
    if status in (408, 409, 429):
        return "ask later, or with more retries"
    if status >= 500:
        return "look at the server's log"
    return "a model that takes images" + (", or logprobs=False" if logprobs else "") + ", or other options"


def _openai() -> Any:
    """The client's module, 1.1 s to import."""
    try:
        import openai
    except ImportError as error:
        raise ResponderError("the openai client is not installed", cure="pip install 'eyeshine[chat]'") from error
    return openai
