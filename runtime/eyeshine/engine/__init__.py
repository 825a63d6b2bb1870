"""Inference engines: a ``Session`` runs one graph and says which provider ran it."""

from eyeshine.engine.cpu import CpuOptions, OrtCpuSession
from eyeshine.engine.session import RunResult, Session, check_session

__all__ = ["CpuOptions", "OrtCpuSession", "RunResult", "Session", "check_session"]
