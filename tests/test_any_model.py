"""Every family is learned from as the plain loop learns from it: a stock pass of the whole, picture and all, a rollout."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stages.contract import SOLVER
from stages.learning.learner import Learner, TrainingGroup, UpdateParams
from stages.learning.passes import TOKENS_PER_PASS
from stages.models.finding import Model, find_model
from stages.models.loading import load_base
from stages.parameters.sampling import Pixels
from stages.policy import RoleState
from stages.learning.control import Baseline
from tests import families
from tests.test_learning import disturb, gradient

TRAITS = [*families.TRAITS, "lfm2_vl", "paligemma"]
