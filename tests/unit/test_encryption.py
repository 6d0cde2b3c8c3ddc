"""What is sealed opens with a key of the file, as what it was sealed for, and not otherwise."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from producer.sealing import resealed, sealed_value
from producer.secrets import StoredSecret
from shared.encryption import EncryptionKeys, new_key
from shared.errors import SecretUnreadable, SettingsInvalid
from shared.sealed import Binding, SealedSecret, SecretUse, key_of
from shared.settings import Settings, read_settings
from tests.support.factories import NOON

VALUE = "s3cr3t-ü"
BINDING = Binding("docs", "crm", SecretUse.REQUEST, ("https://a.example", "https://b.example:8443"))
OLD, NEW = bytes(range(32)), bytes(range(1, 33))


@given(st.text(max_size=300))
def test_what_is_sealed_opens_again_and_is_another_box_each_time(text: str) -> None:
    keys = EncryptionKeys([OLD])

    boxes = [keys.seal(text, BINDING) for _ in range(2)]

    assert [keys.open(box, BINDING) for box in boxes] == [text, text]
    assert boxes[0] != boxes[1]


def test_a_box_says_nothing_of_its_text_but_its_length() -> None:
    box = EncryptionKeys([OLD]).seal(VALUE, BINDING)

    assert VALUE.encode() not in box and base64.b64encode(VALUE.encode()) not in box
    # A version, the key, a nonce, and the tag.
    assert len(box) == 1 + 4 + 12 + len(VALUE.encode()) + 16


def test_no_changed_octet_passes() -> None:
    keys = EncryptionKeys([OLD])
    box = keys.seal(VALUE, BINDING)

    for place in range(len(box)):
        changed = bytearray(box)
        changed[place] ^= 1
        with pytest.raises(SecretUnreadable):
            keys.open(bytes(changed), BINDING)
    for length in range(len(box)):
        with pytest.raises(SecretUnreadable):
            keys.open(box[:length], BINDING)


@pytest.mark.parametrize(
    "change",
    [
        {"project": "web"},
        {"name": "erp"},
        {"use": SecretUse.WEBHOOK},
        {"origins": ("https://a.example",)},
        {"origins": ("https://b.example:8443", "https://a.example")},
        {"origins": ("http://a.example", "https://b.example:8443")},
        {"origins": ("https://a.example", "https://b.example:8443", "https://evil.example")},
        {"origins": ("https://a.example https://b.example:8443",)},
    ],
    ids=repr,
)
def test_what_is_sealed_for_one_place_does_not_open_at_another(change: dict[str, Any]) -> None:
    keys = EncryptionKeys([OLD])
    box = keys.seal(VALUE, BINDING)

    with pytest.raises(SecretUnreadable, match="bound to another project, name or origin"):
        keys.open(box, replace(BINDING, **change))


names = st.text(max_size=20)
bindings = st.builds(
    Binding,
    project=names,
    name=names,
    use=st.sampled_from(SecretUse),
    origins=st.lists(names, max_size=3).map(tuple),
)


@given(bindings, bindings)
def test_no_two_bindings_are_authenticated_alike(one: Binding, other: Binding) -> None:
    assert (one.octets() == other.octets()) == (one == other)


def test_the_first_key_seals_and_all_open() -> None:
    before, after = EncryptionKeys([OLD]), EncryptionKeys([NEW, OLD])
    box = before.seal(VALUE, BINDING)

    assert after.open(box, BINDING) == VALUE
    assert (after.is_newest(box), after.is_newest(after.seal(VALUE, BINDING))) == (False, True)
    assert EncryptionKeys([NEW]).open(after.seal(VALUE, BINDING), BINDING) == VALUE


def test_without_the_key_that_has_sealed_it_the_reason_names_that_key() -> None:
    box = EncryptionKeys([OLD]).seal(VALUE, BINDING)

    with pytest.raises(SecretUnreadable, match=f"sealed with the key {key_of(box)}, which the file"):
        EncryptionKeys([NEW]).open(box, BINDING)
    with pytest.raises(SecretUnreadable, match="RETRIEVER_ENCRYPTION_KEYS_FILE"):
        EncryptionKeys().open(box, BINDING)
    with pytest.raises(SecretUnreadable, match="RETRIEVER_ENCRYPTION_KEYS_FILE"):
        EncryptionKeys().seal(VALUE, BINDING)


def test_keys_show_no_more_than_what_they_are_called() -> None:
    text = new_key()
    keys = EncryptionKeys.of([SecretStr(text)])

    assert text not in repr(keys) and base64.b64decode(text).hex() not in repr(keys)
    assert key_of(keys.seal(VALUE, BINDING)) in repr(keys)


def test_what_travels_is_what_was_sealed() -> None:
    keys = EncryptionKeys([OLD])
    sealed = SealedSecret.of(BINDING, keys.seal(VALUE, BINDING))

    read = SealedSecret.model_validate_json(sealed.model_dump_json())

    assert keys.open(read.octets(), read.binding("docs")) == VALUE
    with pytest.raises(SecretUnreadable):
        sealed.model_copy(update={"box": "no base64"}).octets()


def stored(keys: EncryptionKeys, *, previous: str | None = None) -> StoredSecret:
    binding = replace(BINDING, use=SecretUse.WEBHOOK)
    secret = StoredSecret.new(binding, sealed_value(VALUE, binding, keys), by="a test", now=NOON)
    return replace(secret, previous_box=keys.seal(previous, binding) if previous else None)


def test_sealing_anew_takes_the_first_key_for_both_values_and_is_done_once() -> None:
    before, after = EncryptionKeys([OLD]), EncryptionKeys([NEW, OLD])
    secret = replace(stored(before, previous="old"), previous_until=NOON.replace(year=2030))

    anew = resealed(secret, after, now=NOON)

    assert anew is not None and anew.previous_box is not None
    alone = EncryptionKeys([NEW])
    opened = [alone.open(box, anew.binding) for box in (anew.box, anew.previous_box)]
    assert opened == [VALUE, "old"]
    assert resealed(anew, after, now=NOON) is None


def test_sealing_anew_drops_a_value_that_signs_no_longer() -> None:
    keys = EncryptionKeys([NEW])
    secret = replace(stored(keys, previous="old"), previous_until=NOON)

    anew = resealed(secret, keys, now=NOON)

    assert anew is not None and (anew.previous_box, anew.previous_until) == (None, None)


def test_a_file_of_keys_is_read_a_line_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keys_file(tmp_path, monkeypatch, f"{new_key()}\n{new_key()}\n")

    assert len(read_settings().encryption_keys) == 2
    assert path.read_text().split()[0] not in repr(read_settings())


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("", 0o600, "is empty"),
        ("short\n", 0o600, "must be the base64 of 32 random bytes"),
        (f"{base64.b64encode(OLD).decode()}\n" * 2, 0o600, "must name each key once"),
        (f"{base64.b64encode(OLD).decode()}\n", 0o644, "is open to others on this machine: chmod 600"),
        (f"{base64.b64encode(OLD).decode()}\n", 0o602, "is open to others on this machine: chmod 600"),
        (None, 0o600, "Make one, unless there was one: (umask 077; head -c 32 /dev/urandom | base64 >"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, mode: int, said: str
) -> None:
    keys_file(tmp_path, monkeypatch, text, mode)

    with pytest.raises(SettingsInvalid) as error:
        read_settings()

    assert said in str(error.value) and "RETRIEVER_ENCRYPTION_KEYS" in str(error.value)
    assert base64.b64encode(OLD).decode() not in str(error.value)


def keys_file(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, mode: int = 0o600) -> Path:
    path = folder / "keys"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    monkeypatch.setenv("RETRIEVER_ENCRYPTION_KEYS_FILE", str(path))
    return path


def test_without_a_file_there_are_no_keys() -> None:
    assert not EncryptionKeys.of(Settings().encryption_keys)
