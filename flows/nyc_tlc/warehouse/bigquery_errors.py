"""What BigQuery's client raises, as errors that say what to do."""

from __future__ import annotations

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from nyc_tlc.errors import ConfigurationError, TlcError, WarehouseAwayError, first_line
from nyc_tlc.warehouse.tables import SCHEMA

FAILURES = (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException)
TRANSIENT = (
    api.TooManyRequests,
    api.InternalServerError,
    api.BadGateway,
    api.ServiceUnavailable,
    api.GatewayTimeout,
    api.RetryError,
    auth.TransportError,
    requests.ConnectionError,
    requests.Timeout,
)

ENABLE_BILLING = (
    f"enable billing for the project (the free tier stays), clear the expirations of the dataset {SCHEMA}, and drop its"
    " tables, which keep the old ones"
)


def explain(error: Exception, what: str, place: str, outcome: str, in_doubt: str) -> TlcError:
    """Return the error to raise for a client's error."""
    message = first_line(error) if isinstance(error, auth.GoogleAuthError) else str(error).partition("\n")[0][:300]
    reasons = {each.get("reason") for each in getattr(error, "errors", []) if isinstance(each, dict)}
    refused, unanswered = (f"; {state}" if state else "" for state in (outcome, in_doubt))
    if "quotaExceeded" in reasons:
        return WarehouseAwayError(
            f"{what}: {place}: a quota is used up{refused}",
            got=message,
            fix="run this again when the quota is reset, after a day at the latest, or ask Google to raise it",
        )
    if "rateLimitExceeded" in reasons:
        return WarehouseAwayError(
            f"{what}: too many requests to {place} at once{refused}", got=message, fix="try again later"
        )
    if isinstance(error, TRANSIENT):
        return WarehouseAwayError(f"{what}: {place} did not answer{unanswered}", got=message, fix="try again later")
    if isinstance(error, auth.GoogleAuthError | api.Unauthorized):
        fix = "renew the profile's gcp-credentials and register it again: python blocks/register.py"
        return ConfigurationError(f"{what}: the credentials for {place} are refused", got=message, fix=fix)
    if "billingNotEnabled" in reasons:
        return ConfigurationError(f"{what}: {place} has no billing{refused}", got=message, fix=ENABLE_BILLING)
    if isinstance(error, api.Forbidden) and ("gs://" in message or "storage.objects" in message):
        return ConfigurationError(
            f"{what}: BigQuery may not read the lake's bucket{refused}",
            got=message,
            fix="grant the account of the loads roles/storage.objectUser and roles/storage.legacyBucketReader on it",
        )
    if isinstance(error, api.Forbidden):
        return ConfigurationError(
            f"{what}: a permission is missing in {place}{refused}",
            got=message,
            fix=f"grant roles/bigquery.jobUser on the project and roles/bigquery.dataEditor on the dataset {SCHEMA}",
        )
    return TlcError(f"{what}: {place} failed{refused}", got=message)
