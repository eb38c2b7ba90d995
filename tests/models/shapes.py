"""The smallest networks that models and edits are tested with."""

from schemas.sections.models import AutoencoderShape, TransformerShape

AE = AutoencoderShape(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4)
FLUX = TransformerShape(  # as FLUX.1 [dev], with a guidance embedding
    in_channels=16,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 2, 2),
)
FLOW = FLUX.model_copy(update={"guidance_embed": False})
