"""Models that look at edits and score them, over the chat backend of the captioner.

To add a rubric, write one file here with `RUBRIC`: what the model is asked, and how its answers
become scores. A bench names its rubric. May import kontext.data.chat and kontext.data.caption.
"""
