"""The parameters of links.verify_sql."""

import pytest

from cdc.runtime.errors import ConfigInvalid
from consumers.links.uses import bound


@pytest.mark.parametrize(
    ("statement", "written"),
    [
        ("UPDATE u SET v = true WHERE id = :id", "UPDATE u SET v = true WHERE id = %(id)s"),
        ("SELECT :key::uuid, ':id', \":id\", 5 % 2", "SELECT %(key)s::uuid, ':id', \":id\", 5 %% 2"),
        ("SELECT 'it''s :id 1%'", "SELECT 'it''s :id 1%%'"),
    ],
)
def test_parameters_are_bound_and_quoted_text_stays(statement: str, written: str) -> None:
    assert bound(statement, {"id": "a"}) == written


def test_a_parameter_that_is_no_column_of_the_key_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigInvalid, match=":email; the key has :org, :id"):
        bound("SELECT :email", {"org": 1, "id": 2})
    with pytest.raises(ConfigInvalid, match=":key"):
        bound("SELECT :key", {"org": 1, "id": 2})
