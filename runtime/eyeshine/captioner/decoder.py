"""The decoder's three graphs in use: patches to memory, memory to words, words to signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.captioner.bundle import CaptionerFiles
from eyeshine.captioner.words import ANSWER, END, PAD, START, UNKNOWN
from eyeshine.engine import CpuOptions

__all__ = ["Decoder", "Memory", "Said"]

_UNSPOKEN: Final = [PAD, UNKNOWN, START, ANSWER]

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Memory:
    """What the decoder attends to.

    Attributes:
        features: of the patches [N, F].
        keys, values: of every layer's cross-attention [L, N, D].
    """

    features: Array
    keys: Array
    values: Array


@dataclass(frozen=True, eq=False)
class Said:
    """One id or more that follow a prompt, without the end.

    Attributes:
        ids: of the words.
        logprobs: logarithm of each one's probability.
        complete: whether the model ended the answer itself.
    """

    ids: list[int]
    logprobs: tuple[float, ...]
    complete: bool = True


class Decoder:
    """Runs the captioner's graphs. May be used from several threads.

    Args:
        files: the captioner's folder.
    """

    def __init__(self, files: CaptionerFiles) -> None:
        self.context = files.manifest.context
        one = CpuOptions(threads=1)  # matrices of at most 32 rows: threads would only wait for each other
        self._memory, self._decode, self._explain = (files.session(x, one) for x in ("memory", "decode", "explain"))

    def remember(self, features: Array) -> Memory:
        """Patch features [N, F] as the memory of every layer."""
        outputs = self._memory.run({"features": features[None]}, ["keys", "values"]).outputs
        return Memory(features, outputs["keys"][0], outputs["values"][0])

    def following(self, memory: Memory, ids: list[int]) -> Array:
        """Log-probabilities of every next word, at every place [T, W]."""
        inputs: dict[str, NDArray[np.generic]] = {
            "tokens": np.array([ids], np.int64), "keys": memory.keys[None], "values": memory.values[None],
        }  # fmt: skip
        logs: Array = self._decode.run(inputs, ["log_probabilities"]).outputs["log_probabilities"][0]
        return logs

    def say(self, memory: Memory, asked: list[int], most: int) -> Said:
        """Follow ``asked`` with the likeliest next word, up to ``most`` times; the end is not the first of them."""
        ids, logs = list[int](), list[float]()
        while len(ids) < most:
            following = self.following(memory, [*asked, *ids])[-1]
            following[_UNSPOKEN if ids else [*_UNSPOKEN, END]] = -np.inf
            best = int(following.argmax())
            if best == END:
                return Said(ids, tuple(logs))
            ids.append(best)
            logs.append(float(following[best]))
        return Said(ids, tuple(logs), complete=False)

    def signals(self, memory: Memory, asked: list[int], answer: list[int]) -> dict[str, Array]:
        """Outputs of ``explain.onnx``: row 0 is of the whole answer, row 1 + r of its word r alone."""
        ids = np.array([*asked, *answer], np.int64)
        places = np.arange(len(asked), len(ids))
        response = np.zeros((1 + len(places), len(ids)), np.float32)
        response[0, places] = 1
        response[1 + np.arange(len(places)), places] = 1
        inputs: dict[str, NDArray[np.generic]] = {
            "tokens": np.repeat(ids[None], len(response), 0),
            "response": response,
            "keys": np.repeat(memory.keys[None], len(response), 0),
            "values": np.repeat(memory.values[None], len(response), 0),
        }
        return self._explain.run(inputs, list(self._explain.output_dims)).outputs

    def logprobs(self, memory: Memory, asked: list[int], answer: list[int]) -> tuple[float, ...]:
        """Logarithm of the probability of each word of an answer, given those before it."""
        logs = self.following(memory, [*asked, *answer])
        return tuple(float(logs[len(asked) - 1 + k, word]) for k, word in enumerate(answer))
