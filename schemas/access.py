"""Whether a bucket can be used at all, asked once and answered within seconds.

The libraries that read and write `gs://` find missing credentials out in their own ways: gcsfs retries for a minute and
then prints tracebacks, ArrayRecord waits for ten minutes and then says that the file is damaged. So the first touch of
a bucket asks here: are there credentials (Google's application default ones, which all these libraries use), does the
bucket answer, does it exist? Whether a single object may be read is left to whoever reads it.
"""

import functools
import os
from http import HTTPStatus
from typing import Any

from schemas.errors import DataError

_ENDPOINT = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_SECONDS = 10.0  # to connect and again to answer, for the token and for the bucket
_CURE = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service "
    "account that may use the bucket"
)


def check(path: "str | os.PathLike[str]") -> None:
    """Checks that the bucket of a `gs://` path can be used; any other path passes.

    Raises:
      DataError: naming the bucket, what failed and the cure. What went well is not asked again by this process.
    """
    text = os.fspath(path)
    if text.startswith("gs://"):
        _check_bucket(text.removeprefix("gs://").split("/", 1)[0])


@functools.cache
def _check_bucket(bucket: str) -> None:
    import requests
    from google.auth import exceptions

    try:
        status = _ask(bucket)
    except exceptions.DefaultCredentialsError as error:
        raise DataError(f"gs://{bucket} cannot be used: no Google credentials ({error}). Cure: {_CURE}") from None
    except exceptions.RefreshError as error:
        raise DataError(f"gs://{bucket} cannot be used: the credentials are refused ({error}). Cure: {_CURE}") from None
    except (exceptions.GoogleAuthError, requests.RequestException) as error:
        raise DataError(f"gs://{bucket} cannot be reached: {error}. Is there a network, and a proxy?") from None
    if status == HTTPStatus.UNAUTHORIZED:
        raise DataError(f"gs://{bucket} cannot be used: it refuses these credentials. Cure: {_CURE}")
    if status == HTTPStatus.NOT_FOUND:
        raise DataError(f"gs://{bucket} does not exist: check the bucket's name")
    # Forbidden is no verdict: this lists the bucket, and whoever may not do that may still read its objects.


def _ask(bucket: str) -> int:
    """Lists at most one object; returns the HTTP status."""
    import google.auth
    import requests
    from google.auth.transport.requests import AuthorizedSession

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        session, endpoint = requests.Session(), emulator if "://" in emulator else f"http://{emulator}"
    else:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        session, endpoint = AuthorizedSession(credentials), _ENDPOINT
    with session:
        query = {"maxResults": "1", "fields": "kind"}
        return session.get(f"{endpoint}/storage/v1/b/{bucket}/o", params=query, timeout=_SECONDS).status_code


def service_account() -> str | None:
    """Returns the e-mail address of the service account whose credentials these are, None if they are a person's."""
    import google.auth
    from google.auth import exceptions
    from google.auth.transport.requests import Request

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        if (
            _email(credentials) == "default"
        ):  # a machine's own account, which says its name when it is asked for a token
            credentials.refresh(Request())
    except exceptions.GoogleAuthError:
        return None
    email = _email(credentials)
    return email if email and "@" in email else None


def _email(credentials: Any) -> str | None:
    return getattr(credentials, "service_account_email", None)
