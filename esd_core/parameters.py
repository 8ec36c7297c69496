"""Which parameters of a U-Net an erasure trains."""

from __future__ import annotations

from torch import nn

from esd_core.errors import ErasureFailed
from esd_core.recipe import ParameterSubset


def _is_trained(name: str, module: nn.Module, subset: ParameterSubset) -> bool:
    """Whether the parameter `name`, owned by `module`, belongs to `subset`. Names as in diffusers' U-Net."""
    cross_attention = ".attn2." in name
    match subset:
        case ParameterSubset.ESD_X:
            return cross_attention
        case ParameterSubset.ESD_X_STRICT:
            return cross_attention and (".to_k." in name or ".to_v." in name)
        case ParameterSubset.ESD_U:
            return not cross_attention and not name.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))
        case ParameterSubset.ESD_U_AUTHORS:
            return not cross_attention and isinstance(module, nn.Linear | nn.Conv2d)
        case ParameterSubset.ESD_ALL:
            return True


def select(unet: nn.Module, subset: ParameterSubset) -> dict[str, nn.Parameter]:
    """The parameters of `subset` by name, in the module's own order.

    Raises ErasureFailed when the subset is empty in this model: training nothing must not look like an erasure.
    """
    chosen = {
        f"{prefix}.{leaf}" if prefix else leaf: parameter
        for prefix, module in unet.named_modules()
        for leaf, parameter in module.named_parameters(recurse=False)
        if _is_trained(f"{prefix}.{leaf}" if prefix else leaf, module, subset)
    }
    if not chosen:
        raise ErasureFailed(
            f"subset {subset.value!r} selects no parameter of {type(unet).__name__}: "
            f"this model has no such layers; choose one of {', '.join(s.value for s in ParameterSubset)}"
        )
    return chosen
