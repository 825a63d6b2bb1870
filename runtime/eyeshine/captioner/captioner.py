"""The facade: ask about an image, explain the answer, and change what the answer rests on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eyeshine.bundle import Bundle
from eyeshine.captioner.bundle import CaptionerFiles
from eyeshine.captioner.decoder import Decoder, Memory, Said
from eyeshine.captioner.explanation import ResponseExplanation
from eyeshine.captioner.features import patch_features, tower_graph
from eyeshine.captioner.intervention import Intervention, Region, patches_in
from eyeshine.captioner.maps import MapOptions, earlier_words, layer_maps
from eyeshine.captioner.response import Response
from eyeshine.engine import CpuOptions, EngineOptions
from eyeshine.errors import OptionError, TextError, UnknownWordsWarning
from eyeshine.explanation import check_finite
from eyeshine.images import ImageLike, load_image
from eyeshine.preprocess import CropBox, Preprocess
from eyeshine.sessions import Sessions
from eyeshine.verify import TOLERANCES

__all__ = ["Captioner", "Seen"]

_LEAST_ROOM: Final = 2  # words of an answer that a prompt must leave room for


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that the tower has run on.

    Attributes:
        photo: uint8 [H, W, 3], as it was seen.
        crop: the part of it that the patches show.
        memory: what the decoder attends to.
    """

    photo: NDArray[np.uint8]
    crop: CropBox
    memory: Memory


class Captioner:
    """Answers questions about images and says what its answers rest on. May be used from several threads.

    Args:
        bundle: the tower's bundle.
        files: the captioner's folder.
        options: which engine runs the tower; by default the CPU. The decoder runs on one thread of the CPU.
        check: compare the tower with its golden values when it is first loaded on this machine.

    Raises:
        BundleError: the captioner was not trained on this tower.
    """

    def __init__(
        self, bundle: Bundle, files: CaptionerFiles, options: EngineOptions | None = None, *, check: bool = True
    ) -> None:
        self.bundle, self.manifest, self.words = bundle, files.manifest, files.words
        chosen: EngineOptions = CpuOptions() if options is None else options
        self._preprocess = Preprocess.from_manifest(bundle.manifest.preprocess)
        self._tower = Sessions(bundle, chosen, check=check).get(tower_graph(bundle))
        self.decoder = Decoder(files)
        if bundle.hash != self.manifest.tower_hash:
            files.check_tower(bundle, self._tower, TOLERANCES[chosen.precision(bundle.manifest.precision)])

    @classmethod
    def load(cls, folder: str | Path | None = None, bundle: str | Path | None = None, *, threads: int = 0) -> Captioner:
        """Open a captioner and its tower; without names the embedded ones.

        Args:
            folder: the captioner's folder.
            bundle: the tower's bundle.
            threads: threads inside an operator of the tower; 0 takes all CPUs of the process.

        Raises:
            BundleError: missing, damaged, or not trained on this tower.
        """
        return cls(Bundle.open(bundle), CaptionerFiles.open(folder), CpuOptions(threads))

    def see(self, image: ImageLike) -> Seen:
        """Run the tower once, for several questions about one image.

        Raises:
            ImageError: not an image that can be read.
        """
        photo = load_image(image)
        prepared = self._preprocess.prepare(photo)
        features = patch_features(self._tower, prepared.pixels[None])[0]
        return Seen(photo, prepared.crop, self.decoder.remember(features))

    def respond(self, image: ImageLike | Seen, prompt: str, *, max_words: int | None = None) -> Response:
        """Answer a prompt about an image, each time with the likeliest next word.

        Args:
            image: see ``eyeshine.images.ImageLike``, or what ``see`` returned.
            prompt: a question or request, "what is on the road?".
            max_words: of the response; by default what fits the context.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used.

        Warns:
            UnknownWordsWarning: words that the model never saw, named.
        """
        began, asked = perf_counter(), self._asked(prompt)
        if max_words is not None and (not isinstance(max_words, int) or max_words < 1):
            raise OptionError("length of the response", got=max_words, allowed="1 word and more")
        room = self.manifest.context - len(asked)
        memory = self._seen(image).memory
        return self._response(self.decoder.say(memory, asked, min(room, max_words or room)), began)

    def explain(
        self, image: ImageLike | Seen, prompt: str, response: str | None = None, options: MapOptions | None = None
    ) -> ResponseExplanation:
        """Where a response rests: on which patches, and on which words before.

        Args:
            image, prompt: as ``respond``.
            response: explain these words; by default what the model answers.
            options: how signals become maps.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used; a response with unknown words.
            EngineError: a map is not finite.

        Warns:
            UnknownWordsWarning: words of the prompt that the model never saw, named.
        """
        chosen = MapOptions() if options is None else options
        strengths = chosen.weights(self.manifest.layers)
        began, asked = perf_counter(), self._asked(prompt)
        room = self.manifest.context - len(asked)
        given = None if response is None else self._given(response, room)
        seen = self._seen(image)
        memory = seen.memory
        said = self.decoder.say(memory, asked, room) if given is None else given
        answer = said.ids
        signals = self.decoder.signals(memory, asked, answer)
        places = len(asked) + np.arange(len(answer))
        said = replace(said, logprobs=tuple(float(x) for x in signals["log_probabilities"][0, places]))
        maps = layer_maps(signals, memory.keys, memory.values, chosen.form) * strengths[:, None]
        check_finite(maps, chosen.form)
        alone = {name: signals[name][1:] for name in ("self_attention", "self_gradient")}
        grid = self.manifest.grid
        return ResponseExplanation(
            prompt=prompt,
            response=self._response(said, began),
            words=self.words.spelled([*asked, *answer]),
            map=maps[0].sum(0).reshape(grid),
            layer_maps=maps[0].reshape(-1, *grid),
            word_maps=maps[1:].sum(1).reshape(-1, *grid),
            earlier=earlier_words(alone, places - 1, strengths),
            options=chosen,
            image=seen.photo,
            crop=seen.crop,
        )

    def intervene(
        self, image: ImageLike | Seen, prompt: str, region: Region, *, donor: ImageLike | Seen | None = None
    ) -> Intervention:
        """Replace the features of a region, answer again, and say what changed.

        Args:
            image, prompt: as ``respond``.
            region: bool [H, W], or (left, top, right, bottom) in pixels of the image. Patches of which it covers a
                quarter or more are replaced.
            donor: an image whose features at the same patches take their place; by default the mean feature of the
                patches that stay.

        Raises:
            ImageError, TextError, OptionError: what was passed in cannot be used; a region that covers no patch, or
                all of them.
        """
        began, asked, seen = perf_counter(), self._asked(prompt), self._seen(image)
        replaced = patches_in(region, seen.photo.shape[:2], seen.crop, self.manifest.grid)
        with_it, there = seen.memory, replaced.reshape(-1)
        changed = with_it.features.copy()
        changed[there] = changed[~there].mean(0) if donor is None else self._seen(donor).memory.features[there]
        without = self.decoder.remember(changed)
        room = self.manifest.context - len(asked)
        before, after = self.decoder.say(with_it, asked, room), self.decoder.say(without, asked, room)
        return Intervention(
            prompt=prompt,
            before=self._response(before, began),
            after=self._response(after, began),
            before_again=self.decoder.logprobs(without, asked, before.ids),
            replaced=replaced,
        )

    # -- steps -------------------------------------------------------------------------------------------------

    def _seen(self, image: ImageLike | Seen) -> Seen:
        return image if isinstance(image, Seen) else self.see(image)

    def _response(self, said: Said, began: float) -> Response:
        wall_ms = (perf_counter() - began) * 1e3
        text, tokens = self.words.decode(said.ids), self.words.spelled(said.ids)
        return Response(text, tokens, said.logprobs, self.manifest.name, wall_ms, said.complete)

    def _asked(self, prompt: str) -> list[int]:
        """The ids of a prompt, checked."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise TextError("a prompt must be a text", got=repr(prompt), allowed="a question or a request")
        ids = self.words.prompt(prompt)
        allowed = self.manifest.context - _LEAST_ROOM
        if len(ids) > allowed:
            raise TextError("prompt too long", got=f"{len(ids) - 2} words", allowed=f"up to {allowed - 2}")
        unknown = self.words.unknown(prompt)
        if unknown:
            what = f"the captioner never saw: {', '.join(unknown)}. Its answer may not be about such words."
            warnings.warn(what, UnknownWordsWarning, stacklevel=3)
        return ids

    def _given(self, response: str, room: int) -> Said:
        """A response that the caller asks about, checked; its probabilities are still to be found."""
        unknown = self.words.unknown(response)
        if not response.strip() or unknown:
            got = f"unknown words: {', '.join(unknown)}" if unknown else repr(response)
            raise TextError(
                "this response cannot be explained", got=got, cure="use words of the captioner's vocabulary"
            )
        ids = self.words.encode(response)
        if len(ids) > room:
            raise TextError("response too long", got=f"{len(ids)} words", allowed=f"up to {room} after this prompt")
        return Said(ids, ())
