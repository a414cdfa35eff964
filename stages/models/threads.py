"""How many threads a model computes with on a CPU: for vLLM, for transformers and for the learner."""

import os

from stages.models.finding import Model
from stages.models.fitting import weight_bytes
from stages.models.untrusted import MIB

SMALL = 64 * MIB  # of weights in bfloat16: 34 million parameters
ASKED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by these the user says how many


def fit_threads(model: Model) -> None:
    """Has this process compute with one thread where the weights of `model` are SMALL, unless the user asks for a
    number. To be called before vLLM starts, which then allows no other.

    An operation of such a model is over before a second thread could help; and threads wait for one another, which on
    a busy machine takes most of the time. Measured on two cores that others used as well, in ms with one thread and
    with two: 64 tokens of 8 million parameters 44 and 474, of 36 million 200 and 2,763.
    """
    import torch

    if any(map(os.environ.get, ASKED)) or torch.get_num_threads() == 1 or weight_bytes(model) >= SMALL:
        return
    torch.set_num_threads(1)
