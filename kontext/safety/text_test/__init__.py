"""`kontext safety test --texts`: how many attack phrasings are stopped, and how many benign twins."""
