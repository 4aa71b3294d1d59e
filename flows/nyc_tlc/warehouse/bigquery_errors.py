"""What BigQuery's client raises, as errors that say what to do."""

from __future__ import annotations

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from nyc_tlc.errors import ConfigurationError, TlcError, WarehouseAwayError, first_line

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
    "enable billing for the project (the free tier stays), clear the dataset's expirations, and drop its tables, which"
    " keep the old ones"
)


def explain(error: Exception, what: str, place: str, outcome: str, in_doubt: str) -> TlcError:
    """Return the error to raise for a client's error."""
    message = first_line(error) if isinstance(error, auth.GoogleAuthError) else str(error).partition("\n")[0][:300]
    reasons = {each.get("reason") for each in getattr(error, "errors", []) if isinstance(each, dict)}
    kind: type[TlcError] = TlcError
    why, fix, state = f"{place} failed", "", outcome
    if "quotaExceeded" in reasons:
        kind, why = WarehouseAwayError, f"{place}: a quota is used up"
        fix = "run this again when the quota is reset, after a day at the latest, or ask Google to raise it"
    elif "rateLimitExceeded" in reasons:
        kind, why, fix = WarehouseAwayError, f"too many requests to {place} at once", "try again later"
    elif isinstance(error, TRANSIENT):
        kind, why, fix, state = WarehouseAwayError, f"{place} did not answer", "try again later", in_doubt
    elif isinstance(error, auth.GoogleAuthError | api.Unauthorized):
        kind, why, state = ConfigurationError, f"the credentials for {place} are refused", ""
        fix = "renew the profile's gcp-credentials and register it again: python blocks/register.py"
    elif "billingNotEnabled" in reasons:
        kind, why, fix = ConfigurationError, f"{place} has no billing", ENABLE_BILLING
    elif isinstance(error, api.Forbidden) and ("gs://" in message or "storage.objects" in message):
        kind, why = ConfigurationError, "BigQuery may not read the lake's bucket"
        fix = "grant the account of the loads roles/storage.objectUser and roles/storage.legacyBucketReader on it"
    elif isinstance(error, api.Forbidden):
        kind, why = ConfigurationError, f"a permission is missing in {place}"
        fix = "grant roles/bigquery.jobUser on the project and roles/bigquery.dataEditor on the dataset"
    return kind("; ".join(filter(None, [f"{what}: {why}", state])), got=message, fix=fix)
