"""The stage engine: what a stage is, the graph, the code fingerprint, running, and chunk work.

`stage` is the contract that every stage file imports. `graph` finds the stages, `fingerprint`
hashes their code, `run` decides what is done and runs the rest. It may import `store` and `safety`.
Nothing here knows which orchestrator, if any, is running it.
"""
