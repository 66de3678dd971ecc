"""torch.compile is a speed-up and changes nothing else."""

import pytest
import torch

from hanse.model.loss import next_token_loss

from .sizes import MOE, apertus_of, model_of, tokens_of


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: model_of(MOE), lambda: apertus_of({})], ids=["deepseek_v3", "apertus"])
def test_compiled_model_gives_the_same_loss_and_gradients_for_changing_documents(make):
    torch.compiler.reset()
    plain, compiled = make().train(), make().train()
    compiled.compile(backend="aot_eager")
    for seed in range(4):
        tokens = tokens_of(4, 24, seed=seed)
        documents = torch.randint(0, 3, (4, 24), generator=torch.Generator().manual_seed(seed)).sort(1).values
        losses = []
        for model in (plain, compiled):
            model.zero_grad()
            loss, count = next_token_loss(model, model(tokens, documents), tokens.roll(-1, 1))
            (loss / count).backward()
            losses.append(loss.detach())
        torch.testing.assert_close(*losses, atol=1e-2, rtol=1e-5)
        for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)
        assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), compiled.buffers(), strict=True))


@pytest.mark.slow
def test_compilation_breaks_only_at_attention_and_routed_experts():
    torch.compiler.reset()
    model = model_of(MOE).train()
    explained = torch._dynamo.explain(model)(tokens_of(2, 16))
    reasons = [str(reason.reason) for reason in explained.break_reasons]
    assert len(reasons) == 3 + 2
    assert all("attend_documents" in reason or "compute_experts" in reason for reason in reasons)


@pytest.mark.slow
def test_compilation_of_apertus_breaks_only_at_attention():
    torch.compiler.reset()
    explained = torch._dynamo.explain(apertus_of({}).train())(tokens_of(2, 16))
    reasons = [str(reason.reason) for reason in explained.break_reasons]
    assert reasons and all("_attend" in reason for reason in reasons)
