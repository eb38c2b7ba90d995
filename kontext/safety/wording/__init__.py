"""The learned classifier of texts: what asks to undress somebody in words that no rule has.

It stands beside the rules of `kontext.safety.text`: either may stop a text. A small multilingual
language model (`packed`, `pieces`, `encoder`) reads it, with adapters and a head in
`weights.safetensors`. `python -m kontext.safety.wording.train` makes them, in torch (`network`),
from what authors wrote (`phrasings`), `captions.txt` and `training.txt`, without what the
evaluation set of `kontext.safety.text_test` has, too.
"""
