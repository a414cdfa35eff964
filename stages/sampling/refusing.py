"""What is said of a request that an engine cannot take."""

from jinja2 import TemplateError

from stages.models.prompting import PromptBuilder
from stages.sampling.engine_log import message
from stages.sampling.interface import Refused, Request

# What chat templates, processors and tokenizers raise over a request that is not for them.
NOT_TAKEN = (ValueError, TemplateError)


def too_long(request: Request, tokens: int, context: int) -> Refused:
    """The prompt, of so many `tokens`, leaves the `context` no room for an answer."""
    pictures = len(request.images)
    what = {0: "the prompt takes", 1: "prompt and picture take"}.get(pictures, f"prompt and {pictures} pictures take")
    smaller = "lower --max-pixels, or " if pictures else ""
    return Refused(
        f"too long: {what} {tokens:,} tokens, and the context has {context:,}; {smaller}raise --max-model-len where "
        "the model has room for more"
    )


def refused(request: Request, error: Exception, prompts: PromptBuilder, context: int | None) -> Refused:
    """Why an engine has raised `error` over `request`: it is too long, or what the error says."""
    try:
        tokens = prompts.inputs(request.images, request.prompt)["input_ids"].shape[1]
    except NOT_TAKEN:
        tokens = 0  # whatever it is, it is not the length
    if context is not None and tokens >= context:
        return too_long(request, tokens, context)
    smaller = "; a lower --max-pixels may help" if request.images else ""
    return Refused(f"not taken by the model: {message(error)}{smaller}")
