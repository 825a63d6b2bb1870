"""A captioner that belongs to the embedded model: it answers questions about road scenes and explains its answers.

``Captioner.load()`` opens it; ``respond``, ``explain`` and ``intervene`` use it. See docs/captioner.md.
"""

from __future__ import annotations

from eyeshine.captioner.captioner import Captioner, Seen
from eyeshine.captioner.explanation import ResponseExplanation
from eyeshine.captioner.intervention import Intervention, Region
from eyeshine.captioner.maps import Form, MapOptions
from eyeshine.captioner.response import Response

__all__ = ["Captioner", "Form", "Intervention", "MapOptions", "Region", "Response", "ResponseExplanation", "Seen"]
