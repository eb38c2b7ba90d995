"""How a benchmark says whether its figure reaches its goal."""


def goal(what: str, value: float, limit: float, unit: str = "", *, at_least: bool = False) -> bool:
    """Print one line with figure, limit and verdict; whether it is reached."""
    reached = value >= limit if at_least else value <= limit
    word = "at least" if at_least else "at most"
    verdict = "reached" if reached else "NOT REACHED"
    print(f"{what}: {value:.3g}{unit} ({word} {limit:g}{unit}): {verdict}", flush=True)
    return reached
