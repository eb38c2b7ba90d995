"""Pictures with an address on the web: asked for politely, within limits, never inside our network.

`fetch` asks for one, `ahead` for many, `cache` keeps what the hash gate has passed. May import
kontext.data.patience, kontext.data.decode, kontext.safety.ids and schemas.
"""
