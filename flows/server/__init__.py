"""What starts the Prefect server, registers the flows on it, runs them and watches the runs.

May import flows, tasks, kontext and schemas, not flows.cli. Only `register`, `automations` and
`web`, which run as processes of their own, import prefect: the command line must answer at once,
and speaks to the server by `api`.
"""
