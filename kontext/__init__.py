"""The library: from image sources to published weights. It never imports prefect, tasks or flows.

Folders from bottom to top: errors, store, safety, engine, parallel, models, data, train, edit,
evaluate, stages. A folder imports those below it only; tests/test_architecture.py checks it.
"""
