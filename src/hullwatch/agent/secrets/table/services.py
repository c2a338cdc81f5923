"""Services that programs talk to: chat, payment, mail, monitoring, shops."""

from __future__ import annotations

from hullwatch.agent.secrets.kind import Kind, assigned

__all__ = ["SERVICES"]

SERVICES = (
    # Slack: "Token types"; xoxc and xoxd are a browser's session.
    Kind(
        "slack_token",
        "Slack",
        "xoxb- xoxp- xoxa- xoxo- xoxr- xoxs- xoxe- xoxe.",
        r"\b(xox(?:[bpaors]-[0-9A-Za-z]{8,14}-[0-9A-Za-z-]{18,120}|e(?:\.xox[bp])?-[0-9]-[0-9A-Za-z]{100,}))",
        "xoxb-{d12}-{d13}-{w24}",
        3.0,
    ),
    Kind(
        "slack_app_token",
        "Slack",
        "xapp-",
        r"\b(xapp-[0-9]-[A-Z0-9]{8,14}-[0-9]{10,14}-[0-9a-f]{40,64})\b",
        "xapp-1-A{u10}-{d13}-{h64}",
    ),
    Kind(
        "slack_session",
        "Slack",
        "xoxc- xoxd-",
        r"\b(xoxc-[0-9]{9,15}-[0-9]{9,15}-[0-9]{9,15}-[0-9a-f]{64}|xoxd-[A-Za-z0-9%/+=-]{60,})",
        "xoxc-{d12}-{d12}-{d13}-{h64}",
    ),
    Kind(
        "slack_webhook",
        "Slack",
        "hooks.slack.com",
        r"(https://hooks\.slack(?:-gov)?\.com/(?:services/T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{23,25}"
        r"|(?:workflows|triggers)/[A-Za-z0-9/]{40,80}))",
        "https://hooks.slack.com/services/T{u10}/B{u10}/{w24}",
        3.5,
    ),
    Kind(
        "discord_bot_token",
        "Discord",
        "discord bot token",
        r"\b([MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,40})(?:[^\w.-]|$)",
        "discord_token=MT{w24}.G{w5}.{w38}",
        4.0,
    ),
    Kind(
        "discord_client_secret",
        "Discord",
        "discord",
        assigned("discord", r"[\w-]{32}"),
        "DISCORD_CLIENT_SECRET={s32}",
        3.8,
    ),
    Kind(
        "discord_webhook",
        "Discord",
        "/api/webhooks/",
        r"(https://(?:canary\.|ptb\.)?discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[\w-]{60,72})",
        "https://discord.com/api/webhooks/{d19}/{s68}",
        3.5,
    ),
    Kind(
        "teams_webhook",
        "Microsoft",
        "webhook.office.com",
        r"(https://[a-z0-9-]+\.webhook\.office\.com/webhookb2/[0-9a-f-]{36}@[0-9a-f-]{36}/IncomingWebhook/"
        r"[0-9a-f]{32}/[0-9a-f-]{36}[\w/-]{0,60})",
        "https://acme.webhook.office.com/webhookb2/{uuid}@{uuid}/IncomingWebhook/{h32}/{uuid}",
    ),
    Kind(
        "telegram_bot_token",
        "Telegram",
        ":AA",
        r"\b([0-9]{8,10}:AA[\w-]{32,33})(?:[^\w-]|$)",
        "{d10}:AA{s33}",
        3.5,
    ),
    # Payment and shops.
    Kind(
        "stripe_api_key",
        "Stripe",
        "sk_live_ sk_test_ rk_live_ rk_test_",
        r"\b([sr]k_(?:live|test)_[A-Za-z0-9]{24,})\b",
        "sk_live_{w24}",
        3.5,
    ),
    Kind(
        "stripe_webhook_secret",
        "Stripe",
        "whsec_",
        r"\b(whsec_[A-Za-z0-9+/]{32,64})",
        "whsec_{w32}",
        3.5,
    ),
    Kind(
        "square_token",
        "Square",
        "sq0atp- sq0csp- EAAA",
        r"\b(sq0(?:atp-[\w-]{22}|csp-[\w-]{43})|EAAA[\w-]{60})(?:[^\w-]|$)",
        "sq0csp-{s43}",
        3.5,
    ),
    Kind(
        "shopify_token",
        "Shopify",
        "shpat_ shpca_ shppa_ shpss_",
        r"\b(shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32})\b",
        "shpat_{h32}",
    ),
    Kind(
        "paypal_braintree_token",
        "PayPal",
        "access_token$production$",
        r"(access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32})\b",
        "access_token$production${l16}${h32}",
    ),
    Kind(
        "shippo_token",
        "Shippo",
        "shippo_",
        r"\b(shippo_(?:live|test)_[0-9a-fA-F]{40})\b",
        "shippo_live_{h40}",
    ),
    Kind(
        "easypost_key", "EasyPost", "EZAK EZTK", r"\b(EZ[AT]K[A-Za-z0-9]{54})\b", "EZAK{w54}", 3.5
    ),
    Kind(
        "plaid_token",
        "Plaid",
        "access-",
        r"\b(access-(?:sandbox|development|production)-[0-9a-f-]{36})\b",
        "access-production-{uuid}",
    ),
    # Mail and messages.
    Kind("twilio_api_key", "Twilio", "SK", r"\b(SK[0-9a-fA-F]{32})\b", "SK{h32}"),
    Kind(
        "twilio_auth_token",
        "Twilio",
        "twilio",
        assigned("twilio", "[0-9a-f]{32}"),
        "TWILIO_AUTH_TOKEN={h32}",
    ),
    Kind(
        "sendgrid_api_key",
        "SendGrid",
        "SG.",
        r"\b(SG\.[\w-]{20,24}\.[\w-]{39,50})",
        "SG.{s22}.{s43}",
        3.5,
    ),
    Kind(
        "mailgun_api_key",
        "Mailgun",
        "mailgun key-",
        r"(?i)(?:\b((?-i:key-[0-9a-f]{32}))\b|mailgun[^\r\n]{0,40}?\b"
        r"([0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8})\b)",
        "key-{h32}",
    ),
    Kind("mailchimp_api_key", "Mailchimp", "-us", r"\b([0-9a-f]{32}-us[0-9]{1,2})\b", "{h32}-us14"),
    Kind(
        "brevo_api_key",
        "Brevo",
        "xkeysib- xsmtpsib-",
        r"\b(x(?:key|smtp)sib-[0-9a-f]{64}-[A-Za-z0-9]{16})\b",
        "xkeysib-{h64}-{w16}",
    ),
    Kind(
        "resend_api_key",
        "Resend",
        "re_",
        r"\b(re_[1-9A-HJ-NP-Za-km-z]{8}_[1-9A-HJ-NP-Za-km-z]{24})\b",
        "re_{c8}_{c24}",
        3.5,
    ),
    # Monitoring.
    Kind(
        "datadog_key",
        "Datadog",
        "datadog dd_a dd-a",
        assigned("datadog|dd[_-]a(?:pi|pp)", "[0-9a-f]{32}|[0-9a-f]{40}"),
        "DD_API_KEY={h32}",
    ),
    Kind(
        "newrelic_key",
        "New Relic",
        "NRAK- NRII- NRJS- NRAL",
        r"\b(NRAK-[A-Z0-9]{27}|NRII-[\w-]{32}|NRJS-[0-9a-f]{19}"
        r"|[0-9a-f]{36}NRAL)\b",
        "NRAK-{u27}",
    ),
    Kind(
        "sentry_dsn",
        "Sentry",
        "sentry",
        r"(https://[0-9a-f]{32}(?::[0-9a-f]{32})?@[\w.-]*sentry[\w.-]*/[0-9]{1,20})",
        "https://{h32}@o{d6}.ingest.sentry.io/{d7}",
    ),
    Kind(
        "sentry_token",
        "Sentry",
        "sntrys_ sntryu_",
        r"\b(sntryu_[0-9a-f]{64}|sntrys_eyJ[A-Za-z0-9+/=]{40,}_[A-Za-z0-9+/]{43})",
        "sntryu_{h64}",
    ),
    Kind(
        "grafana_token",
        "Grafana",
        "glsa_ glc_eyJ",
        r"\b(glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}|glc_eyJ[A-Za-z0-9+/]{50,}={0,2})",
        "glsa_{w32}_{h8}",
        3.5,
    ),
    Kind(
        "dynatrace_token",
        "Dynatrace",
        "dt0c01. dt0s",
        r"\b(dt0[cs]0[0-9]\.[A-Z0-9]{24}\.[A-Z0-9]{64})\b",
        "dt0c01.{u24}.{u64}",
        3.5,
    ),
    Kind("posthog_api_key", "PostHog", "phx_", r"\b(phx_[\w-]{40,50})", "phx_{w43}", 3.5),
    Kind(
        "okta_token",
        "Okta",
        "okta ssws",
        r"(?i)(?:okta|ssws)[^\r\n]{0,40}?[\"'=: \t]((?-i:00[\w-]{40}))(?:[^\w-]|$)",
        "OKTA_API_TOKEN=00{s40}",
        3.5,
    ),
    Kind(
        "hubspot_token",
        "HubSpot",
        "pat-na pat-eu",
        r"\b(pat-(?:na|eu)[0-9]-[0-9a-f-]{36})\b",
        "pat-na1-{uuid}",
    ),
    Kind("facebook_token", "Meta", "EAA", r"\b(EAA[A-Za-z0-9]{100,})\b", "EAAC{w180}", 3.8),
    Kind("dropbox_token", "Dropbox", "sl.", r"\b(sl\.(?:u\.)?[\w=-]{130,})", "sl.u.{s200}", 4.0),
    Kind(
        "mapbox_secret_token",
        "Mapbox",
        "sk.eyJ",
        r"\b(sk\.eyJ[\w-]{60,}\.[\w-]{22})",
        "sk.eyJ{w80}.{w22}",
        3.5,
    ),
)
