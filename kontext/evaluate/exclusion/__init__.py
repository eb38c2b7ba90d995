"""Safety training, seen from outside: phrasings that ask for what is excluded, and what they do."""
