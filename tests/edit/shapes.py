"""The smallest networks that edits are tested with."""

from schemas.sections.models import AutoencoderShape, TransformerShape

AE = AutoencoderShape(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4)
FLOW = TransformerShape(
    in_channels=16,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 2, 2),
    guidance_embed=False,
)
