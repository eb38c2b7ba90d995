"""What several commands use: options, tables, and how a command finds its store and recipe.

May import flows.server, flows, tasks, kontext and schemas, and nothing heavy at module level:
`kontext --help` must answer at once.
"""
