"""The learned classifier of texts: what asks to undress somebody in words that no rule has.

It stands beside the rules of `kontext.safety.text`: either may stop a text. Its features are hashed
pieces of words and MiniLM's vectors of word pieces; its weights are made by
`python -m kontext.safety.wording.train` from `training.txt`, which shares no phrase with the
evaluation set of `kontext.safety.text_test`.
"""
