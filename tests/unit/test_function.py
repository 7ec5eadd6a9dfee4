"""How the functions of rules are found."""

import pytest

from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.sections import Rule
from consumers.function import load
from tests.support import functions


def rule(target: str, name: str = "tell") -> Rule:
    return Rule.model_validate({"name": name, "on": "created", "target": target, "consumer": "crm"})


def test_a_function_is_found_by_its_name() -> None:
    found = load([rule("tests.support.functions:remember"), rule("topic:x", "other")])
    assert found == {"tell": functions.remember}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no.such.module:f", "ModuleNotFoundError"),
        ("tests.support.functions:nosuch", "AttributeError"),
        ("tests.support.functions:not_callable", "it can't be called"),
        ("tests.support.functions:later", "write a plain function"),
        ("tests.support.functions:slowly", "write a plain function"),
    ],
)
def test_what_is_no_function_is_a_fault_of_the_settings(target: str, reason: str) -> None:
    with pytest.raises(ConfigInvalid, match=reason) as caught:
        load([rule(target), rule("also.not:there", "other")])
    assert "rules.tell.target" in caught.value.message
    assert "rules.other.target" in caught.value.message
