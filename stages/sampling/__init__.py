"""Sampling completions, behind one small interface: `Sampler.sample`.

Three engines: vLLM (the default where it is installed), transformers (the fallback) and a deterministic fake.
"""

from stages.sampling.interface import Engines, Refused, Request, Sample, Sampler, Wanted
from stages.sampling.opening import open_sampler, resolve_sampler

__all__ = ["Engines", "Refused", "Request", "Sample", "Sampler", "Wanted", "open_sampler", "resolve_sampler"]
