"""Loads a hybrid softmax + linear attention model, made by `surgery`, into diffusers.

    import sys

    import torch
    from diffusers import WanPipeline

    sys.path.append("MODEL/transformer")  # where this file lies
    from surgery_diffusers import load_hybrid_transformer

    transformer = load_hybrid_transformer("MODEL", torch_dtype=torch.bfloat16)
    pipeline = WanPipeline.from_pretrained("MODEL", transformer=transformer, torch_dtype=torch.bfloat16)

Without `transformer=...` diffusers drops the feature maps, with a warning, and the model runs with the attention it was
not trained for. Needs torch, diffusers and safetensors. Shapes: B batch, H heads, N tokens, D head dim, P degree of phi.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
import diffusers
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < (0, 35):
    raise ImportError(f"diffusers {diffusers.__version__} is too old for this file: install 0.35 or later")

CHUNK = 1024  # tokens at a time, so that memory stays linear in N

OUTPUT_ACTIVATIONS = {
    "softplus": F.softplus,
    "relu": F.relu,
    "elu1": lambda x: F.elu(x) + 1,
    "exp": torch.exp,
    "square": torch.square,
    "none": lambda x: x,
}


class HeadwiseLinear(torch.nn.Module):
    """A linear layer of its own for every head: [B, H, N, inputs] -> [B, H, N, outputs]."""

    def __init__(self, heads, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(heads, outputs, inputs))
        self.bias = torch.nn.Parameter(torch.zeros(heads, outputs))

    def forward(self, x):
        return x.to(self.weight.dtype) @ self.weight.mT + self.bias[:, None]


class FeatureMap(torch.nn.ModuleList):
    """phi: an MLP a head, then slice p = 1..P of D outputs to the power p; [B, H, N, D] -> [B, H, N, P * D]."""

    def __init__(self, heads, head_dim, degree, layers, output_activation):
        features = degree * head_dim
        super().__init__(HeadwiseLinear(heads, features if layer else head_dim, features) for layer in range(layers))
        self.head_dim = head_dim
        self.output_activation = OUTPUT_ACTIVATIONS[output_activation]

    def forward(self, x):
        first, *others = self
        x = first(x)
        for layer in others:
            x = layer(F.gelu(x))
        x = self.output_activation(x)
        return torch.cat([part ** (p + 1) for p, part in enumerate(x.split(self.head_dim, dim=3))], dim=3)


def hybrid_attention(query, key, value, phi_q, phi_k, rate, stabilizer):
    """Every `rate`-th key is attended by softmax, the others through the feature maps; all are linear if `rate` is "linear".

    With T_S and T_L these sets of keys, s_ij = q_i k_j / sqrt(D), and c_i the maximum (`stabilizer` "max") or the
    log-sum-exp ("lse") of s_ij over T_S,

        n_i = sum_S exp(s_ij - c_i) + phi_q(q_i) z             z = sum_L phi_k(k_j)
        y_i = (sum_S exp(s_ij - c_i) v_j + phi_q(q_i) S) / n_i   S = sum_L phi_k(k_j)^T v_j

    (Attention Surgery, Eq. 5.) query, key, value and the result: [B, H, N, D]. Sums are kept in fp32.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    linear = torch.ones(key.shape[2], dtype=torch.bool, device=key.device)
    if rate != "linear":
        softmax_key, softmax_value = key[:, :, ::rate].contiguous(), value[:, :, ::rate].contiguous()
        linear[::rate] = False
    S, z = 0, 0
    for k, v in zip(key[:, :, linear].split(CHUNK, dim=2), value[:, :, linear].split(CHUNK, dim=2)):
        features = phi_k(k).to(wide)
        S = S + features.mT @ v.to(wide)  # [B, H, P * D, D]
        z = z + features.sum(dim=2).unsqueeze(3)  # [B, H, P * D, 1]
    output = []
    for q in query.split(CHUNK, dim=2):
        features = phi_q(q).to(wide)
        numerator, normalizer = features @ S, features @ z
        if rate != "linear" and stabilizer == "lse":  # exp(s - c) sums to one: ordinary attention over T_S
            numerator = numerator + F.scaled_dot_product_attention(q, softmax_key, softmax_value)
            normalizer = normalizer + 1
        elif rate != "linear":
            logits = (q.to(wide) / q.shape[3] ** 0.5) @ softmax_key.to(wide).mT
            weights = (logits - logits.amax(dim=3, keepdim=True)).exp_()
            numerator = numerator + weights @ softmax_value.to(wide)
            normalizer = normalizer + weights.sum(dim=3, keepdim=True)
        output.append((numerator / normalizer).to(query.dtype))
    return torch.cat(output, dim=2)


def apply_rope(x, cos, sin):
    """Rotates the pairs (2j, 2j + 1) of x [B, N, H, D]; cos and sin [1, N, 1, D] as diffusers' WanRotaryPosEmbed has them."""
    real, imaginary = x.unflatten(3, (-1, 2)).unbind(4)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=4).flatten(3).type_as(x)


class HybridAttnProcessor:
    """In place of diffusers' WanAttnProcessor in a self-attention that holds phi_q and phi_k."""

    _parallel_config = None  # diffusers' enable_parallelism sets it

    def __init__(self, rate, stabilizer):
        if stabilizer not in ("max", "lse"):
            raise ValueError(f"stabilizer {stabilizer!r} is not known: max or lse")
        self.rate = rate
        self.stabilizer = stabilizer

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        if self._parallel_config is not None:
            raise NotImplementedError("context parallelism: hybrid attention needs all tokens on one device")
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        query, key = apply_rope(query, *rotary_emb), apply_rope(key, *rotary_emb)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        output = hybrid_attention(query, key, value, attn.phi_q, attn.phi_k, self.rate, self.stabilizer)
        return attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))


def make_hybrid(model, hybrid):
    """Gives the blocks of a WanTransformer3DModel the attention that `hybrid` of its config.json tells; phi is zero.

    The parameters' names are those of the file: blocks.{i}.attn1.phi_q.{l}.weight and so on. What `save_pretrained` then
    writes can be loaded again, here and by `surgery`.
    """
    heads, head_dim = model.config.num_attention_heads, model.config.attention_head_dim
    for block, rate in zip(model.blocks, hybrid["rates"], strict=True):
        if rate == 1:
            continue
        for name in ("phi_q", "phi_k"):
            phi = FeatureMap(heads, head_dim, hybrid["phi_degree"], hybrid["phi_layers"], hybrid["phi_output_activation"])
            block.attn1.add_module(name, phi)
        block.attn1.set_processor(HybridAttnProcessor(rate, hybrid["stabilizer"]))
    model.register_to_config(hybrid=hybrid)


def load_hybrid_transformer(folder, torch_dtype=torch.float32):
    """The hybrid transformer of an exported model, on the CPU, as diffusers' own WanTransformer3DModel.

    folder: the model's, or its transformer/. torch_dtype: of the parameters, but for those that diffusers keeps in fp32.
    Raises ValueError for a model that is not hybrid, FileNotFoundError, and RuntimeError for weights that do not fit.
    """
    folder = pathlib.Path(folder)
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    config = json.loads((folder / "config.json").read_text())
    hybrid = config.pop("hybrid", None)
    if hybrid is None:
        raise ValueError(f"{folder}/config.json has no `hybrid`: load it with WanTransformer3DModel.from_pretrained")
    with torch.device("meta"):  # no memory and no random numbers for weights that are read below
        model = WanTransformer3DModel.from_config(config)
        make_hybrid(model, hybrid)
    # The rotary table is in no file.
    model.rope = type(model.rope)(config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"])

    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    files = {"diffusion_pytorch_model.safetensors"}
    if index.exists():
        files = set(json.loads(index.read_text())["weight_map"].values())
    weights = {}
    for file in sorted(files):
        for name, tensor in load_file(folder / file).items():
            in_fp32 = any(part in name for part in model._keep_in_fp32_modules)
            weights[name] = tensor.to(torch.float32 if in_fp32 else torch_dtype)
    model.load_state_dict(weights, assign=True)
    return model.eval()
