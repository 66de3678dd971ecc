"""Cross entropy over counted positions only, without ever holding all logits.

Legend: B batch, T positions, M counted positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.errors import InputError
from hanse.model.documents import Layout
from hanse.model.transformer import Transformer

NOT_COUNTED = -100
# Logits of one chunk, in numbers: 2 Mi float32 are 8 MiB, which a CPU's last-level cache holds. A GPU needs large
# products, for every chunk reads and writes the whole gradient of the head once.
_CHUNK = 1 << 21
_GPU_CHUNK = 1 << 27


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of hidden @ head.T; both gradients are made chunk by chunk while the logits are there.

    So no logits are kept or recomputed, at the price of one head-sized buffer between forward and backward. With
    `z_weight`, the gradient is that of the loss plus z_weight * log(sum of exp(logits))^2, which keeps logits from
    drifting (PaLM, arXiv:2204.02311, sec. 5); the loss that is returned stays the cross entropy.
    """

    @staticmethod
    def forward(ctx, hidden_MD, head_VD, targets_M, z_weight):
        needs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(hidden_MD) if needs else None
        d_head = torch.zeros_like(head_VD, dtype=torch.float32) if needs else None
        total = torch.zeros((), device=hidden_MD.device, dtype=torch.float64)
        rows = max(1, (_GPU_CHUNK if head_VD.is_cuda else _CHUNK) // head_VD.shape[0])
        # One buffer for all chunks, turned from logits to gradient in place: fresh pages cost more than the arithmetic.
        buffer_MV = head_VD.new_empty(min(rows, len(targets_M)), head_VD.shape[0])
        for begin in range(0, len(targets_M), rows):
            hidden, target = hidden_MD[begin : begin + rows], targets_M[begin : begin + rows].unsqueeze(1)
            scores = torch.mm(hidden, head_VD.T, out=buffer_MV[: len(hidden)])
            wide = scores.float()
            log_sum_M1 = torch.logsumexp(wide, -1, keepdim=True) if z_weight else None
            probabilities = torch.softmax(wide, -1, out=wide)
            total += _negative_log(probabilities, target, hidden, head_VD)
            if d_hidden is not None and d_head is not None:
                if log_sum_M1 is not None:
                    probabilities.mul_(1 + 2 * z_weight * log_sum_M1)
                probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
                d_scores = probabilities.to(head_VD.dtype)
                torch.mm(d_scores, head_VD, out=d_hidden[begin : begin + rows])
                if head_VD.dtype == torch.float32:
                    d_head.addmm_(d_scores.T, hidden)
                else:
                    d_head += d_scores.T @ hidden
        if d_hidden is not None and d_head is not None:
            ctx.save_for_backward(d_hidden, d_head)
        return total.float()

    @staticmethod
    def backward(ctx, gradient):
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * gradient, d_head * gradient, None, None


def _negative_log(probabilities_MV: Tensor, target_M1: Tensor, hidden_MD: Tensor, head_VD: Tensor) -> Tensor:
    """Sum of -log probability of the targets, without the second pass over all logits that a log-softmax would need.

    The few targets so unlikely that their probability loses digits get their logits once more.
    """
    chosen_M = probabilities_MV.gather(1, target_M1).squeeze(1)
    rare = (chosen_M < 1e-30).nonzero().squeeze(1)
    losses_M = -chosen_M.log()
    if len(rare):
        scores = (hidden_MD[rare] @ head_VD.T).float()
        losses_M[rare] = F.cross_entropy(scores, target_M1[rare, 0], reduction="none")
    return losses_M.sum(dtype=torch.float64)


def next_token_loss(
    model: Transformer, hidden_BTD: Tensor, targets_BT: Tensor, *, z_weight: float = 0.0
) -> tuple[Tensor, int]:
    """Cross entropy in nats, summed over counted positions, and their number.

    Args:
        model: gives the output head.
        hidden_BTD: what `model.forward` returned.
        targets_BT: the token that each position should predict; -100 is not counted.
        z_weight: of the z-loss, which moves the gradient only.

    Raises:
        InputError: if no position is counted: a mean over nothing would silently be NaN.
    """
    targets_N = targets_BT.flatten()
    counted_M = (targets_N != NOT_COUNTED).nonzero().squeeze(1)
    count = len(counted_M)
    if count == 0:
        raise InputError(
            "A training batch has no position to learn from: every target is masked; check the data's targets."
        )
    hidden_MD = hidden_BTD.flatten(0, -2)
    if count < len(targets_N):
        hidden_MD, targets_N = hidden_MD[counted_M], targets_N[counted_M]
    head_VD = model.head_VD
    device = hidden_BTD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_MD, head_VD = hidden_MD.to(dtype), head_VD.to(dtype)
    return _ChunkedCrossEntropy.apply(hidden_MD, head_VD, targets_N, z_weight), count


def multi_token_loss(
    model: Transformer,
    hidden_BTD: Tensor,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Cross entropy of the multi-token block, which at position i knows token i + 1 and predicts token i + 2.

    Position i counts if `targets_BT` counts at i + 1 and tokens i and i + 1 are of one document.

    Args:
        hidden_BTD: what `model.forward` returned for these tokens and documents.

    Returns:
        Summed loss in nats and the number of counted positions; (0, 0) if there are none, as in a batch of
        one-token answers.

    Raises:
        ValueError: if the model has no multi-token block.
    """
    if model.mtp is None:
        raise ValueError("this model has no multi-token block (num_nextn_predict_layers = 0)")
    targets = targets_BT[:, 1:]
    documents = None
    if documents_BT is not None:
        documents = documents_BT[:, :-1]
        targets = targets.masked_fill(documents_BT[:, 1:] != documents, NOT_COUNTED)
    if not targets.numel():  # rows of one token
        return hidden_BTD.sum() * 0.0, 0
    next_tokens = tokens_BT[:, 1:]
    layout = Layout.of(next_tokens, documents)
    turns_NR = model.turns(layout.positions_N)
    embedded_ND = F.embedding(layout.pack(next_tokens), model.embed_tokens)
    predicted_ND = model.mtp(layout.pack(hidden_BTD[:, :-1]), embedded_ND, turns_NR, layout)
    if not bool((targets != NOT_COUNTED).any()):
        return predicted_ND.sum() * 0.0, 0
    return next_token_loss(model, layout.unpack(predicted_ND, next_tokens.shape), targets)


def further_counted(targets_BT: Tensor, documents_BT: Tensor) -> int:
    """How many positions `multi_token_loss` counts."""
    is_counted = (targets_BT[:, 1:] != NOT_COUNTED) & (documents_BT[:, 1:] == documents_BT[:, :-1])
    return int(is_counted.sum())


class Objective(nn.Module):
    """The model together with its loss: all that reads a weight in training lies inside this one forward.

    Sharding needs that: a weight is whole only between the forward and the backward of the module that was sharded.
    """

    def __init__(self, model: Transformer, *, z_weight: float = 0.0) -> None:
        super().__init__()
        self.model, self.z_weight = model, z_weight

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor, *, with_mtp: bool
    ) -> tuple[Tensor, Tensor]:
        """Summed losses in nats of the next token and, `with_mtp`, of the one after it (else 0).

        A batch without a counted position gives zeros with zero gradients for the same weights as any other, since
        ranks that compute together must agree on which weights have a gradient.
        """
        hidden_BTD = self.model(tokens_BT, documents_BT)
        if bool((targets_BT != NOT_COUNTED).any()):
            loss_sum, _ = next_token_loss(self.model, hidden_BTD, targets_BT, z_weight=self.z_weight)
        else:
            loss_sum = hidden_BTD.sum() * 0.0 + self.model.head_VD.sum() * 0.0
        if not with_mtp:
            return loss_sum, loss_sum.new_zeros(())
        return loss_sum, multi_token_loss(self.model, hidden_BTD, tokens_BT, targets_BT, documents_BT)[0]
