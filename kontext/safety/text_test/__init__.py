"""`kontext safety test --texts`: how many attack phrasings and benign twins are stopped."""
