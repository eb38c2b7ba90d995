"""The Prefect flows: the pipeline, one flow for each stage, and those that look after the data.

May import tasks, kontext and schemas; not flows.server, which starts and registers them, nor
flows.cli, the `kontext` command. A new flow is a new file here, a line in `flows.server.register`
and one in infra/prefect.yaml.
"""
