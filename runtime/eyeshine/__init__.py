"""eyeshine: real-time explanations for CLIP, on onnxruntime, without torch.

from eyeshine import Explainer
explainer = Explainer.load()
explanation = explainer.explain("photo.jpg", ["a crosswalk", "a pedestrian"])
explanation.overlay(0, 0).save("out.png")
"""

from __future__ import annotations

from eyeshine.bundle import Bundle
from eyeshine.errors import EyeshineError
from eyeshine.explainer import Explainer
from eyeshine.explanation import Explanation
from eyeshine.methods import METHODS

__all__ = ["METHODS", "Bundle", "Explainer", "Explanation", "EyeshineError", "__version__"]

__version__ = "0.1.0"
