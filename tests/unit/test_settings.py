"""Settings: every fault at once, each with its key; nothing secret in any text."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName, duration_text, parse_duration, parse_rate, parse_table
from cdc.runtime.settings import Settings, load

MINIMAL = """
[source]
name = "shop"
dsn = "host=127.0.0.1"
[[source.tables]]
name = 'public."User"'
[kafka]
bootstrap_servers = "127.0.0.1:9092"
"""
MAIL = '[smtp]\nhost = "127.0.0.1"\nsecurity = "none"\nsender = "Shop <no-reply@example.org>"\n'


def loaded(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "pgherald.toml"
    path.write_text(text)
    return load(path, environment or {})


def faults(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        loaded(tmp_path, text, environment)
    return caught.value.message.splitlines()[1:]


def test_the_shortest_file_is_enough_and_has_the_documented_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    assert settings.source.tables[0].name == TableName("public", "User")
    assert (settings.source.slot, settings.kafka.partitions, settings.transactional_id) == (
        "pgherald",
        6,
        "shop.pgherald",
    )
    assert settings.ledger_dsn == "host=127.0.0.1"
    assert settings.kafka.retention == timedelta(days=7)
    assert settings.templates.path == tmp_path / "templates"


def test_all_faults_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    broken = MINIMAL.replace("bootstrap_servers", "bootstrap") + '[smtp]\nport = 70000\n[user]\nemial = "x"\n'
    told = "\n".join(faults(tmp_path, broken))
    for key in ("kafka.bootstrap_servers", "kafka.bootstrap:", "smtp.host", "smtp.port", "smtp.sender", "user.emial"):
        assert key in told


def test_two_tables_never_share_a_topic(tmp_path: Path) -> None:
    names = ("""'public."a b"'""", "'public.a_b'", "'pgherald.positions'")
    tables = "".join(f"[[source.tables]]\nname = {name}\n" for name in names)
    told = faults(tmp_path, MINIMAL.replace("[kafka]", f"{tables}[kafka]"))
    assert [line.split("be ")[1].split(",")[0] for line in told] == [
        "shop.public.a_b",
        "shop.public.a_b",
        "shop.pgherald.positions",
    ]


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    changed = {"PGHERALD_SOURCE__DSN": "host=db", "PGHERALD_KAFKA__PARTITIONS": "12", "PGHERALD_CONFIG": "x"}
    settings = loaded(tmp_path, MINIMAL, changed)
    assert (settings.source.dsn.get_secret_value(), settings.kafka.partitions) == ("host=db", 12)


def test_the_environment_writes_lists_as_json(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL, {"PGHERALD_SOURCE__TABLES": '[{"name": "users"}]'})
    assert [table.name for table in settings.source.tables] == [TableName("public", "users")]


def test_an_unknown_setting_of_the_environment_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, MINIMAL, {"PGHERALD_SOURCE__NAEM": "x"}) == [
        "  source.naem: Extra inputs are not permitted"
    ]


def test_secrets_come_from_files_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    settings = loaded(tmp_path, MINIMAL + MAIL + 'username = "u"\npassword_file = "pw"\n')
    assert settings.smtp
    assert settings.smtp.password
    assert settings.smtp.password.get_secret_value() == "hunter2"


def test_a_secret_file_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    assert "can't read the secret" in faults(tmp_path, MINIMAL + MAIL + 'password_file = "nowhere"\n')[0]


def test_no_text_of_a_fault_holds_a_secret(tmp_path: Path) -> None:
    broken = MINIMAL.replace("host=127.0.0.1", "password=hunter2") + MAIL + 'password = ["hunter2"]\nport = "x"\n'
    told = "\n".join(faults(tmp_path, broken))
    assert "smtp.password" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[[rules]]\nname = "w"\non = "creatd"\nmail = "w"\n', "is none of created, deleted, changed:COLUMN"),
        ('[[rules]]\nname = "w"\non = "created"\n', "say what to do"),
        ('[[rules]]\nname = "w"\non = "created"\nmail = "w"\n', "smtp.host and smtp.sender are needed"),
        ('[[rules]]\nname = "w"\non = "created"\nservices = "plans"\n', "[plans] is needed"),
        ('[[rules]]\nname = "w"\ntable = "other"\non = "created"\nmail = "w"\n' + MAIL, "not among source.tables"),
        ('[plans]\nfree = ["news"]\n', "there is no [services.news]"),
        ('[services.news]\nurl = "http://news"\nsecret = "whsec_x"\n', "plain http only with allow_private"),
        ('[smtp]\nhost = "mail.example.org"\nsecurity = "none"\nsender = "a@b.c"\n', 'use "starttls" or "tls"'),
        ('[metrics]\nlisten = "nowhere"\n', "metrics.listen"),
        ('[consume]\nlease = "5s"\n', "consume.lease"),
    ],
)
def test_settings_that_do_not_belong_together_are_faults(tmp_path: Path, more: str, told: str) -> None:
    assert told in "\n".join(faults(tmp_path, MINIMAL + more))


def test_a_file_that_is_missing_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="--config"):
        load(tmp_path / "nowhere.toml", {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Users", ("public", "users")),
        ('"User"', ("public", "User")),
        ('app."my ""t"""', ("app", 'my "t"')),
        ('"a.b".c', ("a.b", "c")),
    ],
)
def test_a_table_is_named_as_in_sql(text: str, name: tuple[str, str]) -> None:
    assert parse_table(text) == name
    assert parse_table(TableName(*name).sql()) == name


@pytest.mark.parametrize("text", ["", "a.b.c", "a b", '"a', "a.", "1a"])
def test_what_is_no_table_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as SQL does"):
        parse_table(text)


def test_durations_and_rates_have_units() -> None:
    assert [duration_text(parse_duration(text)) for text in ("1w", "36h", "90s", "1500ms")] == [
        "7d",
        "36h",
        "90s",
        "1500ms",
    ]
    assert [parse_duration(text) for text in ("250ms", "24h", "7d")] == [
        timedelta(milliseconds=250),
        timedelta(hours=24),
        timedelta(days=7),
    ]
    assert [parse_rate(text) for text in ("14/s", "120/m", "")] == [14.0, 2.0, None]
    with pytest.raises(ValueError, match="unit"):
        parse_duration("24")
    with pytest.raises(ValueError, match="unit"):
        parse_rate("14")


def test_the_example_fits_and_names_every_setting(tmp_path: Path) -> None:
    example = Path("deploy/pgherald.example.toml").read_text()
    (tmp_path / "secrets").mkdir()
    for secret in ("links", "newsletter", "storage"):
        (tmp_path / "secrets" / secret).write_text("whsec_x")
    settings = loaded(tmp_path, example)
    names = {name for section in _sections(settings) for name in type(section).model_fields}
    assert [name for name in sorted(names) if name not in example] == []


def _sections(settings: Settings) -> list[BaseModel]:
    listed = [*settings.source.tables, *settings.rules, *settings.services.values()]
    return [*(value for _, value in settings if isinstance(value, BaseModel)), *listed]


@pytest.mark.parametrize(
    ("rule", "kind", "consumer"),
    [
        ('mail = "w"', "mail", "mail"),
        ('mail = "w"\nconsumer = "bulk"', "mail", "bulk"),
        ('target = "crm.users:tell"\nconsumer = "crm"', "function", "crm"),
        ('target = "topic:crm.commands"\nconsumer = "crm"', "topic", "crm"),
    ],
)
def test_a_rule_belongs_to_one_consumer(tmp_path: Path, rule: str, kind: str, consumer: str) -> None:
    (found,) = loaded(tmp_path, f'{MINIMAL}{MAIL}[[rules]]\nname = "w"\non = "created"\n{rule}\n').rules
    assert (found.kind, found.consumer) == (kind, consumer)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ('target = "crm.users:tell"', "names its own"),
        ('target = "crm.users"\nconsumer = "crm"', "package.module:function"),
        ('target = "topic:a/b"\nconsumer = "crm"', "topic:NAME"),
        ('target = "topic:shop.public.User"\nconsumer = "crm"', "a topic of pgherald's own"),
        ('target = "topic:shop.pgherald.positions"\nconsumer = "crm"', "a topic of pgherald's own"),
        ('target = "a:b"\nmail = "w"\nconsumer = "crm"', "say what to do"),
        ('services = "plans"\nconsumer = "crm"', "belong to the consumer services"),
        ('mail = "w"\nconsumer = "a b"', "consumer"),
    ],
)
def test_a_target_that_can_not_be_is_a_fault(tmp_path: Path, rule: str, fault: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        loaded(tmp_path, f'{MINIMAL}[[rules]]\nname = "w"\non = "created"\n{rule}\n')
    assert fault in str(caught.value)
