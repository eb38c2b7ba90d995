"""The learned classifier of texts: what asks to undress somebody in words that no rule has.

It stands beside the rules of `kontext.safety.text`: either may stop a text. It reads what words
mean: those of `lexicon.txt`, in 25 languages, and English ones by their nearest word there
(`nearby.txt`, from MiniLM's word vectors); small networks read which meanings stand near each
other. `python -m kontext.safety.wording.train` makes `nearby.txt` and `weights.safetensors` from
`training.txt`, `captions.txt` and `earlier.jsonl`, without what the evaluation set of
`kontext.safety.text_test` has, too.
"""
