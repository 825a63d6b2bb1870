"""The chat responder against a real HTTP server: what it sends, what it reads, and what goes wrong."""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tests.runtime.responder.chat_server import chat_server, completion

from eyeshine.errors import ImageError, OptionError, ResponderError, TextError
from eyeshine.responder import ChatResponder

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_proxy_and_no_key(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EYESHINE_CHAT_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "another server's key")


def ask(*replies, prompt="What is in front?", **options):
    """The response to one question, and the server that was asked."""
    with chat_server(*replies) as server:
        responder = ChatResponder(server.url, "asked-model", **{"timeout_s": 10, "retries": 0, **options})
        return responder.respond(PHOTO, prompt), server


def failure(*replies, **options):
    with pytest.raises(ResponderError) as caught:
        ask(*replies, **options)
    return str(caught.value)


def test_what_is_asked_and_what_is_read():
    entries = [{"token": "a", "logprob": -0.5}, {"token": " car", "logprob": -1.25}]
    response, server = ask((200, completion(" A car.", logprobs={"content": entries})), max_tokens=7, temperature=0.5)
    assert response.text == " A car."
    assert response.tokens == ("a", " car")
    assert response.logprobs == (-0.5, -1.25)
    assert response.model == "served-model"
    assert response.complete
    assert 0 < response.wall_ms < 10_000
    assert server.paths == ["/v1/chat/completions"]
    (asked,) = server.asked
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("asked-model", 7, 0.5)
    assert asked["logprobs"] is True
    (message,) = asked["messages"]
    text, picture = message["content"]
    assert (message["role"], text) == ("user", {"type": "text", "text": "What is in front?"})
    kind, data = picture["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), PHOTO)


@pytest.mark.parametrize("found", [None, {}, {"content": None}, {"content": []}])
def test_a_server_without_log_probabilities(found):
    response, _ = ask((200, completion(logprobs=found)))
    assert (response.tokens, response.logprobs) == (None, None)


def test_log_probabilities_are_not_asked_for_where_declined():
    _, server = ask((200, completion()), logprobs=False)
    assert "logprobs" not in server.asked[0]


def test_rounding_above_zero_is_zero():
    response, _ = ask((200, completion(logprobs={"content": [{"token": "a", "logprob": 1e-7}]})))
    assert response.logprobs == (0.0,)


def test_an_answer_that_was_cut_says_so():
    response, _ = ask((200, completion("a red", finish_reason="length")))
    assert not response.complete


def test_a_server_that_does_not_name_its_model():
    answer = {"choices": [{"message": {"content": "a car"}}]}
    response, _ = ask((200, answer))
    assert (response.model, response.complete) == ("asked-model", True)


@pytest.mark.parametrize(
    ("given", "variable", "sent"),
    [(None, None, "Bearer none"), (None, "k1", "Bearer k1"), ("k2", "k1", "Bearer k2")],
)
def test_whose_key_is_sent(monkeypatch, given, variable, sent):
    if variable:
        monkeypatch.setenv("EYESHINE_CHAT_API_KEY", variable)
    _, server = ask((200, completion()), api_key=given)
    assert server.headers[0]["authorization"] == sent


def test_a_key_does_not_show():
    assert "secret" not in repr(ChatResponder("http://x/v1", "m", api_key="secret"))


@pytest.mark.parametrize("key", ["kéy", "k\ny"])
def test_a_key_that_no_header_takes(monkeypatch, key):
    with pytest.raises(OptionError, match="api_key cannot be sent") as caught:
        ChatResponder("http://127.0.0.1:1/v1", "m", api_key=key).respond(PHOTO, "?")
    assert key not in str(caught.value)
    monkeypatch.setenv("EYESHINE_CHAT_API_KEY", key)
    with pytest.raises(OptionError, match="EYESHINE_CHAT_API_KEY cannot be sent"):
        ChatResponder("http://127.0.0.1:1/v1", "m").respond(PHOTO, "?")


def test_it_may_be_used_from_several_threads():
    with chat_server((200, completion())) as server, ThreadPoolExecutor(4) as pool:
        responder = ChatResponder(server.url, "m")
        said = list(pool.map(lambda k: responder.respond(PHOTO, f"{k}?").text, range(8)))
    assert said == ["a red car"] * 8
    assert sorted(asked["messages"][0]["content"][0]["text"] for asked in server.asked) == [f"{k}?" for k in range(8)]


def test_a_server_that_fails_twice_and_then_works():
    response, server = ask((503, b"loading"), (429, b"busy"), (200, completion("at last")), retries=2)
    assert response.text == "at last"
    assert len(server.asked) == 3


def test_a_server_that_fails_for_ever():
    with chat_server((500, b"CUDA out of memory")) as server:
        with pytest.raises(ResponderError, match=r"refused; got HTTP 500 .*CUDA out of memory.*server's log"):
            ChatResponder(server.url, "m", retries=1).respond(PHOTO, "?")
        assert len(server.asked) == 2


def test_a_server_that_is_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(
        ResponderError, match=r"cannot be reached; got 1 attempt: http://127.*refused.*start the server"
    ):
        ChatResponder(url, "m", retries=0).respond(PHOTO, "?")


def test_a_server_that_hangs():
    started = time.perf_counter()
    message = failure("hang", timeout_s=0.3)
    assert time.perf_counter() - started < 5
    assert "did not answer in time; got 1 attempt of 0.3 s" in message
    assert "timeout_s" in message


def test_a_server_that_hangs_once():
    response, server = ask("hang", (200, completion("at last")), timeout_s=0.3, retries=1)
    assert response.text == "at last"
    assert response.wall_ms > 300
    assert len(server.asked) == 2


def test_a_server_that_hangs_up():
    assert "cannot be reached" in failure("drop")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "logprobs=False"),
        (401, "api_key, or set EYESHINE_CHAT_API_KEY"),
        (403, "api_key"),
        (404, "ends in /v1"),
        (429, "ask later"),
        (502, "server's log"),
    ],
)
def test_a_server_that_refuses(status, said):
    message = failure((status, {"error": {"message": "the reason why"}}))
    assert f"HTTP {status} for model asked-model" in message
    assert "the reason why" in message
    assert said in message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>It works!</html>",
        b"\xff\xfe\x00",
        b'{"choices": [{"message": {"content": "cut',
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"a car"',
        {"error": {"message": "no such model"}},
        {"choices": []},
        {"choices": None},
        {"choices": {"0": 1}},
        {"choices": ["a car"]},
        {"choices": [{"text": "a car"}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {}}]},
        completion(logprobs=[1]),
        completion(logprobs={"content": [{"token": "a"}]}),
        completion(logprobs={"content": [{"token": 5, "logprob": -1.0}]}),
        completion(logprobs={"content": [{"token": "a", "logprob": "-1"}]}),
        completion(logprobs={"content": [{"token": "a", "logprob": 0.7}]}),
        completion(logprobs={"content": [{"token": "a", "logprob": float("nan")}]}),
        completion(logprobs={"content": [{"token": "a", "logprob": float("-inf")}]}),
        completion(logprobs={"content": 3}),
    ],
    ids=lambda body: (body if isinstance(body, bytes) else json.dumps(body).encode())[:60].decode("latin1"),
)
def test_garbage_is_not_an_answer(body):
    message = failure((200, body))
    assert "is not a chat completion" in message
    assert "base_url" in message
    assert len(message) < 800


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_an_empty_answer(text):
    message = failure((200, completion(text, finish_reason="length")))
    assert "asked-model answered nothing" in message
    assert "max_tokens" in message


def test_an_answer_that_is_no_text():
    assert "not a text; got content of type list" in failure((200, completion([{"type": "text", "text": "a car"}])))


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ResponderError, match=r"pip install 'eyeshine\[chat\]'"):
        ChatResponder("http://127.0.0.1:1/v1", "m").respond(PHOTO, "?")


def test_what_cannot_be_asked():
    responder = ChatResponder("http://127.0.0.1:1/v1", "m")
    with pytest.raises(TextError, match="blank"):
        responder.respond(PHOTO, " ")
    with pytest.raises(TextError, match="blank"):
        responder.expand("")
    with pytest.raises(ImageError):
        responder.respond(np.zeros((2, 2, 7)), "?")


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "localhost:8000"},
        {"base_url": None},
        {"base_url": "http://"},
        {"base_url": "http://[::1/v1"},
        {"base_url": "http://a b/v1"},
        {"base_url": "http://localhost:99999/v1"},
        {"model": " "},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": "1"},
        {"retries": -1},
        {"retries": 1.0},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"temperature": 2.1},
        {"max_side_px": 1},
        {"max_image_bytes": 5},
        {"max_terms": 1},
    ],
    ids=str,
)
def test_options_are_checked(options):
    (name,) = options
    with pytest.raises(OptionError, match=name):
        ChatResponder(**{"base_url": "http://x/v1", "model": "m", **options})


def expand(text, concept="vehicle", **choice):
    with chat_server((200, completion(text, **choice))) as server:
        return ChatResponder(server.url, "m", retries=0, max_terms=3).expand(concept), server


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("car, bus, truck", ["car", "bus", "truck"]),
        ("Car, Bus.\n", ["car", "bus"]),
        ("car, car, vehicle, bus", ["car", "bus"]),
        ("car, bus, truck, tram", ["car", "bus", "truck"]),
        ("fire engine, stand-up paddle board", ["fire engine", "stand-up paddle board"]),
        ("véhicule, bus", ["véhicule", "bus"]),
    ],
)
def test_terms_of_a_list(text, terms):
    found, server = expand(text)
    assert found == terms
    asked = server.asked[0]
    assert "kinds of vehicle" in asked["messages"][0]["content"][0]["text"]
    assert "up to 3" in asked["messages"][0]["content"][0]["text"]


def test_terms_take_the_article_of_the_concept():
    assert expand("ambulance, bus", "A  Vehicle")[0] == ["an ambulance", "a bus"]
    assert expand("ambulance, bus", "the vehicle")[0] == ["the ambulance", "the bus"]


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here are some: car, bus",
        "car\nbus\ntruck",
        "- car, - bus",
        "1. car, 2. bus",
        "I'm sorry, I cannot help with that",
        "car",
        "car, , bus",
        "car, bus, <b>",
        "<think>hm</think> car, bus",
    ],
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ResponderError, match="did not answer with a list of terms"):
        expand(text)


def test_a_list_that_was_cut_is_refused():
    with pytest.raises(ResponderError, match="larger max_tokens"):
        expand("car, bus, tru", finish_reason="length")
