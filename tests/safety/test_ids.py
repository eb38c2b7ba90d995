from kontext.safety.ids import subject_hmac


def test_hmac_joins_and_hides() -> None:
    one, other = b"a" * 32, b"b" * 32
    assert subject_hmac("id", one) == subject_hmac("id", one) != subject_hmac("id", other)
    assert len(subject_hmac("id", one)) == 64
