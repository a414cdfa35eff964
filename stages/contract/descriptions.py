"""What every column means, in a sentence each: `docs/parquet.md` is made of this and the schemas of `contract`."""

TRAJECTORY = {
    "group_id": "16 hex digits: hash of the run's seed, the training step and the images' hashes",
    "group_index": "0-based position of the group in this iteration, the same however the work is sharded",
    "role": "`proposer` or `solver`: whose adapter it was sampled with, and who learns from it",
    "pass": "null for the proposer; the Solver's pass, `answer` unless `rollout --pass` says otherwise",
    "sample_index": "0 for the proposer, 0…N−1 within a pass",
    "parent_index": "null, or the sample_index of the row that this one was made from (`--of`)",
    "images": "Hugging Face Image features, one or several, none of a pass without; path as reached from the working "
    "directory; bytes with `--embed-images`, and always when the image has no file of its own",
    "images_sha256": "of the encoded files; checked whenever an image is read again",
    "view": "null, or how the pictures are changed on the way to the model (`resize:20`), seeded by the row",
    "question": "the parsed question; null if the proposal had none",
    "target": "on the proposer's row: null, or the answer that is known; never shown to the model",
    "prompt": "the user text that was sent with the images",
    "learn_prompt": "null, or the user text to learn the completion on, where it is another than it was sampled on",
    "completion": "decoded text without special tokens",
    "token_ids": "exactly the sampled tokens, end-of-turn token included when it was sampled; rows without any "
    "are never learned from",
    "logprobs": "natural-log probability of each token under the distribution it was sampled from, that is after "
    "masking, temperature and top-p",
    "finish_reason": "`stop` or `length`",
    "seed": "the trajectory's own seed, below 2^63: hash of group_id, role, pass and sample_index",
    "reject_reason": "null, or what was wrong (unreadable image, no question …)",
}

SCORE_COLUMNS = {
    "step": "training step t of the group: `propose --step`, or the policy's step, + group_index + 1",
    "answer": "text of the answer tag; null if there is none",
    "answer_key": "canonical form by which answers are compared; null with answer",
    "steps": "the reasoning steps, at most `--max-steps`",
    "answer_prob": "p(a∣x,q): share of the N rollouts with this answer_key; 0 where null",
    "entropy": "Shannon entropy (nats) of the group's answers, all unparsed rollouts together being one more outcome; "
    "on every row of the group, of another pass that of its own answers; null without rollouts",
    "dominant": "in the dominant-answer group G",
    "density": "ρ = (|G|/N)^γ",
    "step_similarity": "cosine of each step to its prototype, by the embedding that the parameter `embedding` names; "
    "null where the position does not count; null list outside the dominant group",
    "r_answer": "p(a)^α · (1 − η·ℓ)",
    "r_step": "ρ · Σ_j w_j (1 + cos)/2 / Σ_j w_j",
    "step_weight": "λ(t)",
    "selected": "whether the row is learned from; never one of a pass that is not rewarded",
    "reward": "what `update` learns from; null where it must not",
}

PAIRS = {
    "pair": "rows of a group that share it are a pair; null of those that are in none",
    "preferred": "whether the row is the better one of its pair",
}
CREDIT = {
    "step_credit": "the advantage of the tokens of each of `steps` and, last, of the answer; null where the row is not "
    "learned from",
    "step_tokens": "the place in `token_ids` where each begins, and the one before it ends; what precedes the first "
    "step is the first's",
}

METRICS = {
    "step": "training step of the last group in the optimizer step",
    "role": "whose adapter moved",
    "loss": "the rule's loss, the KL term and what is learned beside them, together",
    "kl": "KL(π‖π_ref), with `--kl forward` KL(π_ref‖π), nats a token, exact over the vocabulary that can be sampled, "
    "at temperature 1",
    "kl_coef": "β with which this step was taken",
    "advantages": "reward − baseline of each trajectory; of one with credit by step its mean over the "
    "tokens, of one in a pair what its log-probability is worth",
    "grad_norm": "before clipping; a step whose gradient is not finite is skipped",
    "importance_weight": "mean of the importance weight w: ŵ = min(π/μ, 2), with `--loss clip` π/μ, without either 1",
    "effective_sample_size": "(Σw)²/(n·Σw²) over the n tokens: 1 where all count alike",
    "clipped": "share of the tokens at which π/μ was cut off",
    "logprob_gap": "mean of |log π − log μ| of the tokens: rounding, in an update's first step of a role",
    "logprob_gap_max": "the largest |log π − log μ| of a token",
    "tokens": "tokens learned from",
}

BENCHMARK = {
    "id": "of its own for each question",
    "image": "the picture; a file with `images` need not have it",
    "question": "what is asked",
    "answers": "any of these is right, compared by answer_key; of `choices`, their letters or their texts",
    "type": "kind of question, for accuracy by kind",
    "choices": "options, lettered A, B, … behind the question; an answer may give the letter or the text",
    "images": "one picture or several, which are taken instead of `image`",
}

EVALUATED = {
    "id": "of the benchmark's row",
    "sample_index": "0…`--samples` − 1",
    "type": "of the benchmark's row",
    "image_sha256": "of the picture, or of the hashes of several",
    "prompt": "the user text that was sent",
    "completion": "decoded text without special tokens",
    "prediction": "the parsed answer; null if there is none",
    "answers": "of the benchmark's row",
    "score": "1 right, 0 wrong, or between where the metric has degrees (ANLS); null where the row could not be asked",
    "tokens": "of the completion",
    "finish_reason": "`stop` or `length`",
    "task": "the benchmark's short name; null for a file in the plain schema",
    "question": "the question as the benchmark has it",
    "cluster": "rows that share it are not independent: the picture's hash, for MathVerse the problem",
    "seed": "the sample's own seed, below 2^63",
    "reject_reason": "null, or why the row could not be asked",
}
