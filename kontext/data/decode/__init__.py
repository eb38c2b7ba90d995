"""The one decode guard: every reader turns untrusted bytes into RGB8 pixels here, or is refused.

Order: byte cap, magic, what the container says (size, damage, scans, memory), decode, colour,
alpha, orientation. Nothing is allocated in proportion to a picture that the limits refuse, and a
decoder only sees the parts of a file that it needs for the first picture.

- palette, bilevel, tRNS: expanded, transparency kept until it is composited;
- embedded ICC profiles: converted to sRGB by what they compute, at the picture's own depth;
- CMYK and YCCK: through the embedded profile where it works, else (1 - ink)(1 - black);
- deep samples: by the range that the format or the file states (see `samples`);
- animations and multi-picture files: the first picture; `later` is shown the others (see `later`);
- alpha: composited on `background`.
"""

from kontext.data.decode.guard import decode_image
from kontext.data.decode.result import MAX_BYTES, Decoded, LaterError, Reason
from kontext.data.decode.sniff import sniff

__all__ = ["MAX_BYTES", "Decoded", "LaterError", "Reason", "decode_image", "sniff"]
