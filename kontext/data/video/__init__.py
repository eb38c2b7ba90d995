"""Frames of video files: decoded in a process of their own, cut into shots, nothing else opened.

`frames` asks, `child` answers with what `reader` decodes. Needs PyAV (the extra `[video]`). May
import kontext.data.decode and kontext.errors.
"""
