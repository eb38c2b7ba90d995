import pytest

from schemas.words import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 files are"), (1, "1 file is")])
def test_a_number_has_the_words_for_it(count: int, said: str) -> None:
    assert counted(count, "file is", "files are") == said
    assert counted(2300, "file is", "files are") == "2,300 files are"
