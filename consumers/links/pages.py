"""The pages behind links, in the reader's language. Pure; nothing of a user stands in them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

_STYLE = (
    "body{margin:0;font:16px/1.6 system-ui,sans-serif;color:#1f2937;background:#f2f4f7}"
    "main{max-width:32rem;margin:4rem auto;padding:2rem;background:#fff;border-radius:12px}"
    "h1{margin:0 0 1rem;font-size:1.4rem}"
    "button{padding:.8rem 1.6rem;font:inherit;font-weight:600;color:#fff;background:#1d4ed8;border:0;border-radius:8px}"
)
_STYLES = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL | re.IGNORECASE)

#: Nothing runs, nobody frames it, and the address with its token is told to no other site.
_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
    "vary": "accept-language",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One page: its name, its status and, by language, its title, its text and what its button says."""

    name: str
    status: int
    texts: dict[str, tuple[str, ...]]


ASK_VERIFY = Kind(
    "ask_verify",
    200,
    {
        "en": ("Confirm your email address", "Please press the button to confirm your address.", "Confirm my address"),
        "de": ("E-Mail-Adresse bestätigen", "Bitte bestätigen Sie Ihre Adresse mit dem Knopf.", "Adresse bestätigen"),
        "fr": ("Confirmer votre adresse", "Appuyez sur le bouton pour confirmer votre adresse.", "Confirmer"),
        "ar": ("تأكيد عنوان بريدك", "اضغط الزر لتأكيد عنوانك.", "تأكيد العنوان"),
    },
)
VERIFIED = Kind(
    "verified",
    200,
    {
        "en": ("Your address is confirmed", "Thank you. You can close this page."),
        "de": ("Ihre Adresse ist bestätigt", "Danke. Sie können diese Seite schließen."),
        "fr": ("Votre adresse est confirmée", "Merci. Vous pouvez fermer cette page."),
        "ar": ("تم تأكيد عنوانك", "شكرًا. يمكنك إغلاق هذه الصفحة."),
    },
)
USED = Kind(
    "used",
    410,
    {
        "en": ("This link was used", "The address was confirmed with it before. There is nothing to do."),
        "de": ("Dieser Link wurde schon benutzt", "Die Adresse wurde mit ihm bestätigt. Es ist nichts zu tun."),
        "fr": ("Ce lien a déjà servi", "L'adresse a été confirmée avec lui. Il n'y a rien à faire."),
        "ar": ("استُخدم هذا الرابط من قبل", "تم تأكيد العنوان به. لا حاجة إلى أي إجراء."),
    },
)
EXPIRED = Kind(
    "expired",
    410,
    {
        "en": ("This link has expired", "Please ask for a new one."),
        "de": ("Dieser Link ist abgelaufen", "Bitte fordern Sie einen neuen an."),
        "fr": ("Ce lien a expiré", "Veuillez en demander un nouveau."),
        "ar": ("انتهت صلاحية هذا الرابط", "يُرجى طلب رابط جديد."),
    },
)
GONE = Kind(
    "gone",
    410,
    {
        "en": ("This link is no longer valid", "The account or its address has changed since the mail was sent."),
        "de": ("Dieser Link gilt nicht mehr", "Das Konto oder seine Adresse hat sich seit der Mail geändert."),
        "fr": ("Ce lien n'est plus valable", "Le compte ou son adresse a changé depuis l'envoi du message."),
        "ar": ("لم يعد هذا الرابط صالحًا", "تغيّر الحساب أو عنوانه منذ إرسال الرسالة."),
    },
)
INVALID = Kind(
    "invalid",
    400,
    {
        "en": ("This link is not valid", "Please open it once more from the mail, as a whole."),
        "de": ("Dieser Link ist ungültig", "Bitte öffnen Sie ihn noch einmal aus der Mail, vollständig."),
        "fr": ("Ce lien n'est pas valable", "Veuillez l'ouvrir de nouveau depuis le message, en entier."),
        "ar": ("هذا الرابط غير صالح", "يُرجى فتحه كاملًا من الرسالة مرة أخرى."),
    },
)
ASK_UNSUBSCRIBE = Kind(
    "ask_unsubscribe",
    200,
    {
        "en": (
            "Unsubscribe",
            "Press the button and you get no more mails but those about your account.",
            "Unsubscribe",
        ),
        "de": ("Abmelden", "Mit dem Knopf bekommen Sie nur noch Mails zu Ihrem Konto.", "Abmelden"),
        "fr": ("Se désabonner", "Vous ne recevrez plus que les messages sur votre compte.", "Se désabonner"),
        "ar": ("إلغاء الاشتراك", "لن تصلك بعد ذلك إلا الرسائل المتعلقة بحسابك.", "إلغاء الاشتراك"),
    },
)
UNSUBSCRIBED = Kind(
    "unsubscribed",
    200,
    {
        "en": ("You are unsubscribed", "You can close this page."),
        "de": ("Sie sind abgemeldet", "Sie können diese Seite schließen."),
        "fr": ("Vous êtes désabonné", "Vous pouvez fermer cette page."),
        "ar": ("تم إلغاء اشتراكك", "يمكنك إغلاق هذه الصفحة."),
    },
)
LATER = Kind(
    "later",
    503,
    {
        "en": ("Please try again later", "This does not work at the moment. The link stays valid."),
        "de": ("Bitte später noch einmal", "Das geht im Augenblick nicht. Der Link bleibt gültig."),
        "fr": ("Veuillez réessayer plus tard", "Cela ne fonctionne pas pour l'instant. Le lien reste valable."),
        "ar": ("يُرجى المحاولة لاحقًا", "لا يعمل هذا الآن. يبقى الرابط صالحًا."),
    },
)
NOT_FOUND = Kind("not_found", 404, {"en": ("There is no such page", "Please open the link from the mail.")})
NOT_ALLOWED = Kind("not_allowed", 405, {"en": ("That is not possible here", "Please open the link from the mail.")})


ALL = {
    kind.name: kind
    for kind in (
        *(ASK_VERIFY, VERIFIED, USED, EXPIRED, GONE, INVALID, ASK_UNSUBSCRIBE, UNSUBSCRIBED),
        *(LATER, NOT_FOUND, NOT_ALLOWED),
    )
}


def html(kind: Kind, lang: str) -> str:
    """Write a page; in English where it has no such language."""
    lang = lang if lang in kind.texts else "en"
    title, text, *button = (escape(part) for part in kind.texts[lang])
    # Without an action the form goes to the page's own address, the token with it; nothing happens before.
    form = f'<form method="post"><button>{button[0]}</button></form>' if button else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}" dir="{"rtl" if lang == "ar" else "ltr"}">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1><p>{text}</p>{form}</main></body>\n</html>\n"
    )


def headers(html: str) -> dict[str, str]:
    """Write a page's headers. It may show its own styles and images of its site, and load or run nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in _STYLES.findall(html))
    styles = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    policy = (
        f"default-src 'none'; style-src {styles}; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return _HEADERS | {"content-security-policy": policy}


def language(accept_language: str, offered: Iterable[str]) -> str:
    """Choose by Accept-Language (RFC 9110 12.5.4): the first of the most wanted that there is, else English."""
    known = {lang.lower().replace("_", "-"): lang for lang in offered}
    wanted = []
    for place, part in enumerate(accept_language[:500].split(",")):
        tag, _, quality = part.partition(";q=")
        try:
            wanted.append((-float(quality or 1), place, tag.strip().lower()))
        except ValueError:
            continue
    tags = (each for quality, _, tag in sorted(wanted) if quality for each in (tag, tag.partition("-")[0]))
    return next((known[tag] for tag in tags if tag in known), "en")
