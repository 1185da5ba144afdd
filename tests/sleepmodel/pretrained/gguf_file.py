"""A small Llama as llama.cpp writes it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

F32, Q4_1, Q8_0 = 0, 3, 8
# the bytes of a byte-level BPE are tokens of their own; a space is Ġ
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh123", "Ġ", "ab", "Ġab"]
FACTS: dict[str, Any] = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.rope.freq_base": 1e5,
    "llama.rope.dimension_count": 8,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 3),
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": "{{ messages }}",
}
Tensors = dict[str, tuple[npt.NDArray[np.float32], int]]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def fact(value: Any) -> bytes:
    """Type and value."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        inner = [fact(each) for each in value]
        return (
            struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(inner)) + b"".join(each[4:] for each in inner)
        )
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def quantised(array: npt.NDArray[np.float32], kind: int) -> bytes:
    """llama.cpp's blocks of 32 weights. The values must be whole multiples of what a block can hold."""
    if kind == F32:
        return array.astype("<f4").tobytes()
    blocks = []
    for block in array.reshape(-1, 32):
        if kind == Q8_0:
            scale = np.float16(2.0**-6)
            blocks.append(scale.tobytes() + np.rint(block / scale).astype(np.int8).tobytes())
        else:
            scale, least = np.float16(2.0**-3), np.float16(-1.0)
            q = np.rint((block - least) / scale).astype(np.uint8)
            blocks.append(scale.tobytes() + least.tobytes() + (q[:16] | q[16:] << 4).astype(np.uint8).tobytes())
    return b"".join(blocks)


def write_gguf(path: Path, facts: dict[str, Any], tensors: Tensors) -> Path:
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    header += b"".join(text(name) + fact(value) for name, value in facts.items())
    data = b""
    for name, (array, kind) in tensors.items():
        shape = struct.pack(f"<{array.ndim}Q", *array.shape[::-1])
        header += text(name) + struct.pack("<I", array.ndim) + shape + struct.pack("<IQ", kind, len(data))
        data += quantised(array, kind)
        data += bytes(-len(data) % 32)
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def llama() -> Tensors:
    """A random Llama in llama.cpp's layout."""
    make = np.random.default_rng(0)
    layer = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    layer |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    found: Tensors = {"token_embd.weight": (make.integers(-64, 64, (len(TOKENS), 32)) / 64, Q8_0)}
    for number in range(2):
        for name, shape in layer.items():
            found[f"blk.{number}.{name}.weight"] = (make.integers(0, 16, shape) / 8 - 1, Q4_1)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{number}.{name}.weight"] = (make.random(32, dtype=np.float32), F32)
    return {**found, "output_norm.weight": (make.random(32, dtype=np.float32), F32)}
