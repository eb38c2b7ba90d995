"""Where a chunk runs: in this process, in a pool of processes, or on a Ray cluster.

`kontext.engine.chunks` plans, stores, retries and isolates. An executor runs one task and says what
became of it, and nothing else: a task whose worker died is `Lost`, and it is not the executor that
tries it again. A new kind of executor is one file here, and one line in `choice.py`.
"""

CHANGES_RESULTS = False  # runs work, whatever it is
