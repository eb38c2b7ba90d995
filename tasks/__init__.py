"""One Prefect task around a stage, and what it reports: pages, tables, progress and events.

May import kontext and schemas. A new kind of page is a pure function here that makes markdown.
"""
