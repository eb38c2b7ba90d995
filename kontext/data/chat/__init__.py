"""Asking a model behind an OpenAI-compatible chat endpoint (vLLM, OpenAI and others).

A `Prompt` goes in, an `Answer` comes out: a typed value, or a status that says why there is none.
Every reply is kept as it comes, so nothing is paid for twice. What is asked, and what becomes of
the answers, is the business of the captioner and the judge (kontext.data.caption). May import
kontext.errors, kontext.data.sources.stable and schemas.
"""
