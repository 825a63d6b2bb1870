"""Attribution methods, one small file each, found in one registry.

There are two kinds: a ``Method`` reads signals of one run of a graph, a ``PassesMethod`` runs the model many times.
"""

from __future__ import annotations

from typing import Final, TypeAlias, TypeGuard, cast

from eyeshine.errors import OptionError
from eyeshine.methods.attention import Attention
from eyeshine.methods.attention_flow import AttentionFlow
from eyeshine.methods.attention_grad_cam import AttentionGradCam
from eyeshine.methods.base import BlockSignals, Method
from eyeshine.methods.chefer import Chefer
from eyeshine.methods.chefer_layers import CheferLayers
from eyeshine.methods.clip_surgery import ClipSurgery
from eyeshine.methods.concept import ConceptAttribution
from eyeshine.methods.dense_clip import ClearClip, MaskClip, NaClip, Sclip
from eyeshine.methods.fm_g_cam import FmGCam
from eyeshine.methods.grad_cam import GradCam
from eyeshine.methods.grad_eclip import GradEclip
from eyeshine.methods.head_decomposition import HeadDecomposition
from eyeshine.methods.kernel_shap import KernelShap
from eyeshine.methods.legrad import LeGrad
from eyeshine.methods.lrp import AttnLrp, CpLrp
from eyeshine.methods.m2ib import M2ib
from eyeshine.methods.mmel import Mmel
from eyeshine.methods.mmel_literal import MmelLiteral
from eyeshine.methods.nib import Nib
from eyeshine.methods.occlusion import Blur, Occlusion
from eyeshine.methods.passes import PassesMethod
from eyeshine.methods.rise import Rise
from eyeshine.methods.rollout import Rollout
from eyeshine.methods.saliency import Saliency
from eyeshine.methods.vit_cx import VitCx

__all__ = [
    "METHODS",
    "AnyMethod",
    "Attention",
    "AttentionFlow",
    "AttentionGradCam",
    "AttnLrp",
    "BlockSignals",
    "Blur",
    "Chefer",
    "CheferLayers",
    "ClearClip",
    "ClipSurgery",
    "ConceptAttribution",
    "CpLrp",
    "FmGCam",
    "GradCam",
    "GradEclip",
    "HeadDecomposition",
    "KernelShap",
    "LeGrad",
    "M2ib",
    "MaskClip",
    "Method",
    "Mmel",
    "MmelLiteral",
    "NaClip",
    "Nib",
    "Occlusion",
    "PassesMethod",
    "Rise",
    "Rollout",
    "Saliency",
    "Sclip",
    "VitCx",
    "by_passes",
    "get_method",
    "graph_method",
]

AnyMethod: TypeAlias = Method | PassesMethod

METHODS: Final[dict[str, AnyMethod]] = {
    method.name: method
    for method in (
        GradEclip(),
        Chefer(),
        Attention(),
        Rollout(),
        AttentionFlow(),
        CheferLayers(),
        LeGrad(),
        AttentionGradCam(),
        GradCam(),
        FmGCam(),
        ConceptAttribution(),
        Mmel(),
        MmelLiteral(),
        HeadDecomposition(),
        Rise(),
        KernelShap(),
        Occlusion(),
        Blur(),
        VitCx(),
        Nib(),
        M2ib(),
        ClipSurgery(),
        MaskClip(),
        Sclip(),
        ClearClip(),
        NaClip(),
        Saliency(),
        AttnLrp(),
        CpLrp(),
    )
}


def by_passes(method: AnyMethod) -> TypeGuard[PassesMethod]:
    """Whether a method runs the model many times, rather than read the signals of one run."""
    return hasattr(method, "explain")


def get_method(method: str | AnyMethod) -> AnyMethod:
    """Return the registered method of a name, or the method itself.

    Raises:
        OptionError: no method of that name.
    """
    if not isinstance(method, str | type) and (hasattr(method, "maps") or by_passes(method)):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise OptionError(
            "unknown method", got=repr(method), allowed=", ".join(METHODS), cure="eyeshine methods lists them"
        )
    return METHODS[method]


def graph_method(method: AnyMethod) -> Method:
    """The method as one that reads the signals of one run.

    Raises:
        OptionError: it runs the model many times.
    """
    if by_passes(method):
        raise OptionError(
            f"method {method.name} runs the model many times and makes its maps on the host", got=method.name,
            allowed="a method that reads one run's signals", cure="Explainer.explain",
        )  # fmt: skip
    return cast(Method, method)
