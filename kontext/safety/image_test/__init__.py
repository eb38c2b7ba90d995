"""How well a policy's classifiers do on somebody's own pictures: `kontext safety test --harmless`.

Nothing of a picture is kept or shown, neither pixels nor names: what comes of it are counts.
"""
