"""Tiny random checkpoints of 22 families of vision-language models: `build("qwen3_vl", folder)`.

Tokenizer, processor, configuration and weights are made on the spot, in the layout of published checkpoints, as
transformers, vLLM and the commands read it. None has more than 1.5 million parameters. Weights are large enough for
outputs far from uniform, and nothing is left at exactly one or zero, where leaving it out would go unnoticed.

    python -m tests.families FOLDER [FAMILY…]
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from stages.models.loading import prepare_transformers

prepare_transformers()

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from ireasoner_cli.demo.architecture import TAGS, build_tokenizer  # noqa: E402

Parts: TypeAlias = tuple[Any, Any]  # a configuration and a processor
Settings: TypeAlias = dict[str, Any]

CONTEXT = 4096
SPREAD = 0.15  # standard deviation of the weights
WIDTH = 128
ROTARY: Settings = {"rope_type": "default", "rope_theta": 10000.0}
TEXTS = (
    "Look at the image and answer the question below. Write one question about it.",
    "<think>\nStep 1: The red bar is 4.\nStep 2: The blue bar is 7.\nStep 3: 4 + 7 = 11.\n</think>",
    "\n<answer>11</answer>",
    "<question>What is the value of item 3?</question>\n<rationale>Read it.</rationale>",
)

FAMILIES: dict[str, Callable[[], Parts]] = {}
# Each trait once: what stands for its family in the tests. `python -m tests.families_matrix` goes through all of them.
TRAITS = {
    "qwen2_5_vl": "positions of three dimensions",
    "qwen3_vl": "image features behind several layers (DeepStack), norms of queries and keys",
    "internvl3_5": "more tokens marked as an image's than features",
    "idefics3": "the language model is called text_model; an output layer of its own",
    "gemma4": "sliding windows, images that see both ways, keys shared among layers, capped logits",
    "gemma4_causal": "the same, as the small Gemma 4 have it: images see one way",
    "qwen3_5": "layers with a recurrent state",
    "qwen3_vl_moe": "experts",
    "glm4v": "gate and up in one projection, half of a head rotated",
}


def family(make: Callable[[], Parts]) -> Callable[[], Parts]:
    FAMILIES[make.__name__] = make
    return make


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint of the family `name`, with prompts that fit its context, into `folder`."""
    config, processor = FAMILIES[name]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() < 2 or "norm" in parameter_name:
                parameter.data += 0.05 * torch.randn_like(parameter)
    words = processor.tokenizer
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name in PUBLISHED:
        file = folder / "model.safetensors"
        save_file(dict(map(PUBLISHED[name], load_file(file).items())), file, metadata={"format": "pt"})
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts" / "proposer.txt").write_text("Write one <question> about it.")
    (folder / "prompts" / "solver.txt").write_text("Answer the question: {question}")
    return folder


# ------------------------------------------------------------- as published, where save_pretrained writes otherwise


def _whole_tower(weight: tuple[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """CLIP's and SigLIP's towers were models of their own."""
    name, tensor = weight
    inner = "vision_tower."
    if inner in name and "vision_model." not in name:
        name = name.replace(inner, f"{inner}vision_model.")
    return name, tensor


def _experts_in_out(weight: tuple[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """Qwen3-VL-MoE's experts lie as [experts, in, out]."""
    name, tensor = weight
    return name, tensor.mT.contiguous() if ".mlp.experts." in name else tensor


PUBLISHED = {"qwen3_vl_moe": _experts_in_out} | dict.fromkeys(
    ("llava", "llava_next", "llava_onevision", "gemma3", "lfm2_vl", "paligemma"), _whole_tower
)

# --------------------------------------------------------------------------------------------- what many have


def chat_template(image: str, start: str = "") -> str:
    """A turn of each speaker, `image` in the place of a picture."""
    return (
        start
        + "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        + "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        + f"{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        + "{% endfor %}{% endif %}"
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def tokenizer(named: Mapping[str, str] = {}, others: tuple[str, ...] = ()) -> Any:
    """A byte-level BPE. Special tokens: `named`, by the tokenizer's attribute for each, and `others`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = dict.fromkeys(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values(), *others))
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
        extra_special_tokens=dict(named),
    )


def ids(words: Any, **tokens: str) -> dict[str, int]:
    return {setting: words.convert_tokens_to_ids(token) for setting, token in tokens.items()}


def language(words: Any, **own: Any) -> Settings:
    """Of a language model: heads of 32, which vLLM wants on a CPU, and half as many of keys and values."""
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": SPREAD,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        **own,
    }


def transformer_tower(**own: Any) -> Settings:
    """Of a vision tower of CLIP's, SigLIP's or Pixtral's kind."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "initializer_range": SPREAD,
        **own,
    }


def deep_tower(**own: Any) -> Settings:
    """Of a vision tower of Qwen's or GLM's kind."""
    return {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": WIDTH,
        "initializer_range": SPREAD,
        **own,
    }


def square(side: int) -> dict[str, dict[str, int]]:
    return {"size": {"height": side, "width": side}}


# ------------------------------------------------------------------------------------------------------- Qwen

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
INTERLEAVED = {**ROTARY, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
DELTA_RULE: Settings = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_key_head_dim": 128,  # as large as vLLM has kernels for
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def _qwen2(name: str, processor_name: str, vision: Settings) -> Parts:
    words = build_tokenizer(TEXTS, vocabulary=420)
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    processor = getattr(transformers, processor_name)(
        image_processor=transformers.Qwen2VLImageProcessor(size=size),
        tokenizer=words,
        video_processor=transformers.Qwen2VLVideoProcessor(size=size),
        chat_template=chat_template(QWEN_IMAGE),
    )
    sections = {**ROTARY, "mrope_section": [4, 6, 6]}
    config = getattr(transformers, name)(
        text_config=language(words, rope_parameters=sections, tie_word_embeddings=True, max_window_layers=3),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids(words, **QWEN_TOKENS),
    )
    return config, processor


@family
def qwen2_vl() -> Parts:
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2, "num_heads": 2}
    return _qwen2("Qwen2VLConfig", "Qwen2VLProcessor", {**tower, "initializer_range": SPREAD})


@family
def qwen2_5_vl() -> Parts:
    return _qwen2("Qwen2_5_VLConfig", "Qwen2_5_VLProcessor", deep_tower(fullatt_block_indexes=[1]))


def _qwen3(name: str, text: Settings, **vision: Any) -> Parts:
    words = build_tokenizer(TEXTS, vocabulary=420)
    size = {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            size=size, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=words,
        video_processor=transformers.Qwen3VLVideoProcessor(size=size),
        chat_template=chat_template(QWEN_IMAGE),
    )
    config = getattr(transformers, name)(
        text_config=language(words, head_dim=32, tie_word_embeddings=True, **text),
        vision_config=deep_tower(depth=3, patch_size=16, num_position_embeddings=64, **vision),
        tie_word_embeddings=True,
        **ids(words, **QWEN_TOKENS),
    )
    return config, processor


@family
def qwen3_vl() -> Parts:
    return _qwen3("Qwen3VLConfig", {"rope_parameters": INTERLEAVED}, deepstack_visual_indexes=[0, 1])


@family
def qwen3_vl_moe() -> Parts:
    text = {"rope_parameters": INTERLEAVED, "decoder_sparse_step": 1, **EXPERTS}
    return _qwen3("Qwen3VLMoeConfig", text, deepstack_visual_indexes=[0, 1])


@family
def qwen3_5() -> Parts:
    partly = {**INTERLEAVED, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.5}
    return _qwen3("Qwen3_5Config", {**DELTA_RULE, "rope_parameters": partly})


@family
def qwen3_5_moe() -> Parts:
    partly = {**INTERLEAVED, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.5}
    text = {**DELTA_RULE, **EXPERTS, "shared_expert_intermediate_size": 32, "rope_parameters": partly}
    return _qwen3("Qwen3_5MoeConfig", text)


@family
def minicpmv4_6() -> Parts:
    named = {
        "image_token": "<|image_pad|>", "image_start_token": "<image>", "image_end_token": "</image>",
        "slice_start_token": "<slice>", "slice_end_token": "</slice>", "video_token": "<|video_pad|>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    words = tokenizer(named)
    processor = transformers.MiniCPMV4_6Processor(
        image_processor=transformers.MiniCPMV4_6ImageProcessor(scale_resolution=112, patch_size=14, slice_mode=False),
        video_processor=transformers.MiniCPMV4_6VideoProcessor(scale_resolution=112, patch_size=14),
        tokenizer=words,
        chat_template=chat_template("<|image_pad|>\n"),
    )
    partly = {**ROTARY, "partial_rotary_factor": 0.5}
    text = language(words, head_dim=32, rope_parameters=partly, tie_word_embeddings=True, **DELTA_RULE)
    config = transformers.MiniCPMV4_6Config(
        vision_config=transformer_tower(image_size=112, num_hidden_layers=3),
        text_config={"model_type": "qwen3_5_text", **text},
        insert_layer_id=1,
        image_size=112,
        tie_word_embeddings=True,
        **ids(words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    return config, processor


# ---------------------------------------------------------------------------------------- InternVL and LLaVA


def _internvl(text_model: str, **text: Any) -> Parts:
    words = tokenizer(
        {
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    )  # fmt: skip
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            crop_to_patches=True, min_patches=1, max_patches=4, **square(56)
        ),
        tokenizer=words,
        video_processor=transformers.InternVLVideoProcessor(**square(56)),
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config=transformer_tower(image_size=[56, 56], patch_size=[14, 14]),
        text_config={"model_type": text_model, **language(words, tie_word_embeddings=True, **text)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
    )
    return config, processor


@family
def internvl() -> Parts:
    return _internvl("qwen2")


@family
def internvl3_5() -> Parts:
    return _internvl("qwen3", head_dim=32)


CLIP_SIZE: Settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}


@family
def llava() -> Parts:
    words = tokenizer({"image_token": "<image>"})
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(**CLIP_SIZE),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template("<image>\n"),
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**transformer_tower(projection_dim=32)),
        text_config=transformers.LlamaConfig(**language(words)),
        image_seq_length=16,
        **ids(words, image_token_index="<image>"),
    )
    return config, processor


@family
def llava_next() -> Parts:
    words = tokenizer({"image_token": "<image>"})
    grid = [[56, 112], [112, 56], [112, 112]]
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(image_grid_pinpoints=grid, **CLIP_SIZE),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template("<image>\n"),
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**transformer_tower(projection_dim=32)),
        text_config={"model_type": "mistral", **language(words, sliding_window=None)},
        image_grid_pinpoints=grid,
        **ids(words, image_token_index="<image>"),
    )
    return config, processor


@family
def llava_onevision() -> Parts:
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(image_grid_pinpoints=grid, **square(56)),
        tokenizer=words,
        video_processor=transformers.LlavaOnevisionVideoProcessor(**square(56)),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **transformer_tower(vision_use_head=False)},
        text_config={"model_type": "qwen2", **language(words, tie_word_embeddings=True)},
        image_grid_pinpoints=grid,
        tie_word_embeddings=True,
        **ids(words, image_token_index="<image>", video_token_index="<video>"),
    )
    return config, processor


# --------------------------------------------------------------------------------------------------- Google's


@family
def gemma3() -> Parts:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(named, ("\n", "\n\n", "\n\n\n", "\n\n\n\n"))  # vLLM's processor looks for those
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(**square(56)),
        tokenizer=words,
        chat_template=chat_template("<start_of_image>"),
        image_seq_length=4,
    )
    config = transformers.Gemma3Config(
        text_config=language(
            words,
            num_hidden_layers=4,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=16,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            initializer_range=SPREAD / 3,
        ),
        vision_config=transformer_tower(vision_use_head=False),
        mm_tokens_per_image=4,
        **ids(words, **{f"{name}_index": token for name, token in named.items()}),
    )
    return config, processor


def _gemma4(both_ways: str | None) -> Parts:
    named = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    words = tokenizer(named, ("<|video|>",))
    pictures = {"patch_size": 16, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(**pictures),
        tokenizer=words,
        video_processor=transformers.Gemma4VideoProcessor(**pictures),
        chat_template=chat_template("<|image|>"),
        image_seq_length=70,
    )
    layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    tokens = {"eoa_token_index": "<audio|>", "video_token_id": "<|video|>"}
    tokens |= {f"{name}_id": token for name, token in named.items() if name != "eoa_token"}
    config = transformers.Gemma4Config(
        text_config=language(
            words,
            num_hidden_layers=len(layers),
            layer_types=layers,
            head_dim=32,
            global_head_dim=64,
            sliding_window=16,
            num_kv_shared_layers=2,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(words),
            final_logit_softcapping=30.0,
            use_bidirectional_attention=both_ways,
            initializer_range=SPREAD / 3,
        ),
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 256, "initializer_range": SPREAD,
            "default_output_length": 70,
        },
        audio_config=None,
        **ids(words, **tokens),
    )  # fmt: skip
    config.audio_config = None  # else one of the usual size is made up
    return config, processor


@family
def gemma4() -> Parts:
    return _gemma4("vision")


@family
def gemma4_causal() -> Parts:
    return _gemma4(None)


@family
def paligemma() -> Parts:
    words = tokenizer(others=("<image>", "\n", "\n\n"))
    processor = transformers.PaliGemmaProcessor(
        image_processor=transformers.SiglipImageProcessor(**square(56)),
        tokenizer=words,
        chat_template=chat_template("<image>"),
    )
    processor.image_processor.image_seq_length = 16
    words = processor.tokenizer  # it has added tokens
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            **transformer_tower(projection_dim=WIDTH, vision_use_head=False),
        },
        text_config={"model_type": "gemma", **language(words, head_dim=32, num_image_tokens=16)},
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=len(words),
        **ids(words, image_token_index="<image>"),
    )
    return config, processor


# ------------------------------------------------------------------------------------------------------ others


def _idefics3(name: str, **parts: Any) -> Parts:
    rows = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    words = tokenizer(
        others=("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows),
    )
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{name}ImageProcessor")(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=chat_template("<image>"),
        **parts,
    )
    config = getattr(transformers, f"{name}Config")(
        vision_config=transformer_tower(),
        text_config={"model_type": "llama", **language(words)},
        scale_factor=2,
        pad_token_id=words.pad_token_id,
        **ids(words, image_token_id="<image>"),
    )
    return config, processor


@family
def idefics3() -> Parts:
    return _idefics3("Idefics3")


@family
def smolvlm() -> Parts:
    edge = {"longest_edge": 56}
    video = transformers.SmolVLMVideoProcessor(
        size=edge, max_image_size=edge, video_sampling={"max_frames": 4, "fps": 1, "video_size": edge}
    )
    return _idefics3("SmolVLM", video_processor=video)


def _glm4v(name: str, **text: Any) -> Parts:
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    edges = {
        "image_start_token_id": "<|begin_of_image|>", "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>",
    }  # fmt: skip
    words = tokenizer(named, (*edges.values(), "[gMASK]", "<sop>"))
    size = {"shortest_edge": 2 * 56 * 56, "longest_edge": 2 * 112 * 112}  # a picture counts as two frames
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessor(size=size),
        tokenizer=words,
        video_processor=transformers.Glm4vVideoProcessor(size=size),
        chat_template=chat_template("<|begin_of_image|><|image|><|end_of_image|>", start="[gMASK]<sop>"),
    )
    half = {**ROTARY, "mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}
    config = getattr(transformers, name)(
        text_config=language(words, head_dim=32, attention_bias=True, rope_parameters=half, **text),
        vision_config=deep_tower(image_size=56, patch_size=14),
        **ids(words, **{f"{key}_id": token for key, token in named.items()}, **edges),
    )
    return config, processor


@family
def glm4v() -> Parts:
    return _glm4v("Glm4vConfig")


@family
def glm4v_moe() -> Parts:
    experts = {
        "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "use_qk_norm": False,
    }  # fmt: skip
    return _glm4v("Glm4vMoeConfig", **experts)


@family
def mistral3() -> Parts:
    named = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    words = tokenizer(named)
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(size={"longest_edge": 112}, patch_size=14),
        tokenizer=words,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=chat_template("[IMG]"),
    )
    config = transformers.Mistral3Config(
        vision_config={"model_type": "pixtral", **transformer_tower(image_size=112, head_dim=16)},
        text_config={"model_type": "mistral", **language(words, sliding_window=None, head_dim=32)},
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **ids(words, image_token_index="[IMG]"),
    )
    return config, processor


@family
def lfm2_vl() -> Parts:
    named = {
        "image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    tiles = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11))
    words = tokenizer(named, tiles)
    processor = transformers.Lfm2VlProcessor(
        image_processor=transformers.Lfm2VlImageProcessor(
            downsample_factor=2, do_image_splitting=False, min_image_tokens=4, max_image_tokens=16,
            encoder_patch_size=16, tile_size=64, max_num_patches=64,
        ),
        tokenizer=words,
        chat_template=chat_template("<image>"),
    )  # fmt: skip
    tower = transformer_tower(model_type="siglip2_vision_model", patch_size=16, num_patches=64, vision_use_head=False)
    del tower["image_size"]
    config = transformers.Lfm2VlConfig(
        vision_config=tower,
        text_config=language(
            words, model_type="lfm2", num_hidden_layers=4, layer_types=["conv", "conv", "full_attention", "conv"],
            conv_L_cache=3, conv_bias=False, conv_dim=WIDTH, block_dim=WIDTH, block_ff_dim=192, block_multiple_of=16,
            block_auto_adjust_ff_dim=False,
        ),
        projector_hidden_size=64,
        downsample_factor=2,
        **ids(words, image_token_id="<image>"),
    )  # fmt: skip
    return config, processor


def main(out: Path, names: list[str]) -> None:
    for name in names or FAMILIES:
        file = build(name, out / name) / "model.safetensors"
        print(f"{name:16} {file.stat().st_size / 4e6:.2f} million parameters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
