"""What LADD is made of, and the gates that its wiring must pass before hours are spent."""
