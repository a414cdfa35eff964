"""Tokens of the vocabulary that nothing uses: free to stand for something else."""

from stages.errors import UsageError
from stages.models.finding import Model


def unused_token(model: Model) -> str:
    """The last of the tokenizer's control tokens (`<|…|>`, or special) that no chat contains: none of its template's,
    none for pictures, none that ends a turn. Raises UsageError where there is none."""
    template = _chat_template(model)
    used = {*model.forbidden_tokens, *model.end_of_turn}
    added = sorted(model.tokenizer.get_added_tokens_decoder().items())
    free = [
        token.content
        for number, token in added
        if (token.special or (token.content.startswith("<|") and token.content.endswith("|>")))
        and number not in used
        and token.content not in template
    ]
    if not free:
        raise UsageError(f"{model.ref.name}: its tokenizer has no control token to spare; name one with --last-token")
    return free[-1]


def unused_id(model: Model, token: str) -> int:
    """The id of a token that is never sampled on purpose. Raises UsageError for what is none."""
    number = model.tokenizer.token_to_id(token)
    if number is None:
        raise UsageError(f"--last-token: {model.ref.name} has no token {token!r}")
    if number in (*model.forbidden_tokens, *model.end_of_turn):
        raise UsageError(f"--last-token: {token!r} stands for a picture, or ends a turn; name one that nothing uses")
    return number


def _chat_template(model: Model) -> str:
    """The text of every chat template in the model's folder."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(model.path.glob("*.jinja"))]
    for name in ("chat_template.json", "tokenizer_config.json"):
        texts.append(str(model.settings(name).get("chat_template")))
    return "\n".join(texts)
