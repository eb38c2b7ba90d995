import torch

from kontext.models.autoencoder.patchgan import PatchDiscriminator


def test_patch_discriminator() -> None:
    model = PatchDiscriminator(16)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 1, 2, 2)
    logits.mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    # one image's logits do not depend on its neighbours in the batch
    model.eval()
    assert torch.allclose(model(images[:1]), model(images)[:1], atol=1e-5)
