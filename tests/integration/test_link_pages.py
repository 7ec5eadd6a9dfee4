"""`pgherald links` by HTTP: what a link does once, what scanners do to it, and what is told to whom."""

import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from string import ascii_letters, digits

import httpx
import pytest
from itsdangerous import URLSafeTimedSerializer

from cdc.runtime.sections_mail import Links
from consumers.mail.links import unsubscribe_url, verify_url
from deploy.local.net import free_port, until
from tests.support.database import Database
from tests.support.deployment import Running

EMAIL, KEY = "ada@example.org", '{"id":"a"}'
VERIFY = """UPDATE "User" SET verified = verified + 1, note = ':id 100%' WHERE id = :id AND id = :key::text"""


class Site:
    """A running `pgherald links` with one user, Ada."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.folder = folder
        self.database, self.port = database, free_port()
        self.base = f"http://127.0.0.1:{self.port}/account/verify"
        self.links = Links.model_validate({"base_url": self.base, "secret": ["new", "old"]})
        database.execute('CREATE TABLE "User" (id text PRIMARY KEY, email text, verified int DEFAULT 0, note text)')
        database.execute('INSERT INTO "User" (id, email) VALUES (%s, %s)', ("a", EMAIL))
        path = folder / "pgherald.toml"
        path.write_text(
            f"[source]\nname = 't'\ndsn = '{database.dsn}'\n[[source.tables]]\nname = '\"User\"'\n"
            "[kafka]\nbootstrap_servers = '127.0.0.1:1'\n[links]\n"
            f"base_url = '{self.base}'\nsecret = ['new', 'old']\nverify_sql = '''{VERIFY}'''\n"
        )
        self.start()

    def start(self) -> None:
        arguments = ["links", "--config", str(self.folder / "pgherald.toml"), "--listen", f"127.0.0.1:{self.port}"]
        self.process = Running(arguments, self.folder / "links.log", {})
        until(lambda: self.process.said("links_listening") and self._answers(), 20, "links to be served")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, key: str = KEY, email: str = EMAIL) -> str:
        return str(verify_url(self.links, key, email))

    @property
    def verified(self) -> int:
        return int(self.database.execute("SELECT verified FROM \"User\" WHERE id = 'a'")[0][0])


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    made = Site(database, tmp_path)
    yield made
    assert made.process.stop() == 0


def test_scanners_burn_nothing_and_the_button_confirms_once(site: Site) -> None:
    url = site.url()
    for method in ("GET", "HEAD", "GET"):
        shown = httpx.request(method, url)
        assert (shown.status_code, site.verified) == (200, 0)
        assert ("<button>" in shown.text) is (method == "GET")
    assert httpx.post(url).status_code == 200
    assert httpx.post(url).status_code == 410
    assert site.verified == 1
    assert site.database.execute('SELECT note FROM "User"') == [(":id 100%",)]
    assert site.database.execute("SELECT purpose, key FROM pgherald.link_use") == [("verify", KEY)]


def test_a_used_link_stays_used_however_it_is_spelled(site: Site) -> None:
    url = site.url()
    assert httpx.post(url).status_code == 200
    spelled = [url[:-1] + last for last in ascii_letters + digits + "-_"] + [f"{url}=", "=.".join(url.rsplit(".", 1))]
    answers = {httpx.post(each).status_code for each in spelled}
    assert (answers, site.verified) == ({400, 410}, 1)


def test_of_many_clicks_at_once_one_counts(site: Site) -> None:
    url = site.url()
    with ThreadPoolExecutor(8) as threads:
        answers = [answer.status_code for answer in threads.map(httpx.post, [url] * 8)]
    assert sorted(answers) == [200] + [410] * 7
    assert site.verified == 1


def test_a_link_is_for_the_address_that_got_it_and_for_this_user(site: Site) -> None:
    url = site.url()
    site.database.execute("UPDATE \"User\" SET email = 'new@example.org'")
    assert [httpx.post(url).status_code, httpx.post(site.url('{"id":"b"}')).status_code] == [410, 410]
    assert site.verified == 0
    site.database.execute('UPDATE "User" SET email = %s', (EMAIL,))
    assert httpx.post(url).status_code == 200  # it was not used up


def test_while_the_row_can_not_be_changed_the_link_stays_valid(site: Site) -> None:
    site.database.execute('ALTER TABLE "User" RENAME COLUMN verified TO later')
    failed = httpx.post(site.url())
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "60")
    site.database.execute('ALTER TABLE "User" RENAME COLUMN later TO verified')
    assert httpx.post(site.url()).status_code == 200


def test_what_is_forged_damaged_too_old_or_elsewhere_changes_nothing(site: Site) -> None:
    good = site.url()
    forged = str(verify_url(Links.model_validate({"base_url": site.base, "secret": "other"}), KEY, EMAIL))
    other = URLSafeTimedSerializer(["new"], salt="pgherald.unsubscribe").dumps({"key": KEY, "address": "x"})
    bad = [forged, good[:-1], f"{site.base}?token={other}", site.base, f"{site.base}?token=", f"{good}{'x' * 9000}"]
    for url in bad:
        assert {httpx.get(url).status_code, httpx.post(url).status_code} == {400}
    assert httpx.post(site.base, content=b"x" * 20_000).status_code == 400
    assert httpx.get(f"{good}&{'a=b&' * 50}").status_code == httpx.post(f"{good}&{'a=b&' * 50}").status_code == 400
    assert httpx.put(good).status_code == 405
    assert httpx.get(good.replace("/verify", "/other")).status_code == 404
    assert site.database.execute("SELECT * FROM pgherald.link_use") == []


def test_one_click_unsubscribes_and_a_look_does_not(site: Site) -> None:
    hashed = "0f" * 32
    url = unsubscribe_url(site.links, hashed)
    assert "<button>" in httpx.get(url).text
    assert site.database.execute("SELECT * FROM pgherald.suppression") == []
    for _ in range(2):
        answer = httpx.post(url, data={"List-Unsubscribe": "One-Click"})
        assert (answer.status_code, answer.cookies) == (200, httpx.Cookies())
    assert site.database.execute("SELECT address_hash, reason, source FROM pgherald.suppression") == [
        (hashed, "unsubscribe", "link")
    ]


def test_pages_have_the_look_of_the_users_own_templates_and_work_as_ever(site: Site) -> None:
    folder = site.folder / "templates" / "_pages"
    folder.mkdir(parents=True)
    (folder / "page.html.j2").write_text(
        '<html lang="{{ lang }}" dir="{{ dir }}"><style>h1 { color: teal }</style><h1>Ours: {{ title }}</h1>'
        '{% if button %}<form method="post"><button>{{ button }}</button></form>{% endif %}</html>'
    )
    (folder / "invalid.html.j2").write_text("{{ nobody }}")
    assert site.process.stop() == 0
    site.start()
    url = site.url()
    shown = httpx.get(url, headers={"accept-language": "de"})
    assert "<h1>Ours: E-Mail-Adresse bestätigen</h1>" in shown.text
    style = b64encode(sha256(b"h1 { color: teal }").digest()).decode()
    assert f"style-src 'sha256-{style}';" in shown.headers["content-security-policy"]
    assert "Ours: Your address is confirmed" in httpx.post(url).text
    assert (httpx.post(url).status_code, site.verified) == (410, 1)
    broken = httpx.get(url[:-1])  # the page of a template that fails is ours
    assert (broken.status_code, "This link is not valid" in broken.text) == (400, True)
    assert "_pages/invalid.html.j2, line 1: UndefinedError" in site.process.log.read_text()


def test_pages_load_and_tell_nothing_and_the_log_holds_no_token(site: Site) -> None:
    url = site.url()
    shown = httpx.get(url, headers={"accept-language": "xx, de-AT;q=0.9, en;q=0.5"})
    assert '<html lang="de" dir="ltr">' in shown.text
    assert '<html lang="ar" dir="rtl">' in httpx.get(url, headers={"accept-language": "ar"}).text
    assert '<html lang="en"' in httpx.get(url, headers={"accept-language": "<script>;q=x,,"}).text
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
    assert (shown.headers["referrer-policy"], shown.headers["cache-control"]) == ("no-referrer", "no-store")
    assert "server" not in shown.headers
    assert not re.search(r"src=|href=|ada|token", shown.text)
    httpx.post(url)
    log = site.process.log.read_text()
    assert '"outcome":"verified"' in log
    assert url.partition("token=")[2][:12] not in log
    assert "ada" not in log
